"""Facts and query rows, both with keys and times -> the newest fact at each row's time, by DuckDB's ASOF join.

Keys and times are int64: keys are numbers in place of ids, times are microseconds since 1970, UTC.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from features.terms.slices import positions

Int64 = npt.NDArray[np.int64]

NO_FACT = -1
"""The result of a row without a fact at its time."""
UNKNOWN_KEY = -1
"""The key of a query row whose key no fact has, or is null."""
LISTS_AT_ONCE = 65_536


class AsOfJoin:
    """Joins query rows with facts as of the rows' time or any earlier time. Facts are referred to by position."""

    def __init__(
        self, connection: duckdb.DuckDBPyConnection, keys: Int64, at: Int64, created: pa.Array | None, by_arrival: bool
    ) -> None:
        """keys, at: [F]; facts with negative keys are skipped. created: [F] int64 or null; breaks ties of (key, at).

        by_arrival: a fact is also unknown before its created time, and always unknown if that is null.
        """
        self._connection = connection.cursor()  # a cursor has its own temporary tables
        held = {"k": pa.array(keys), "us": pa.array(at), "fact": pa.array(np.arange(len(keys)))}
        held["created"] = pa.nulls(len(keys), pa.int64()) if created is None else created
        self._connection.register("facts", pa.table(held))
        self._connection.execute(f"CREATE TEMP TABLE known AS {_BY_ARRIVAL if by_arrival else _BY_TIME} ORDER BY k, us")
        self._connection.unregister("facts")

    def ask(self, keys: Int64, at: Int64) -> None:
        """Set the query rows, keys and at [E]. They are joined sorted and without duplicates, which halves the time."""
        order = np.lexsort((at, keys))
        keys, at = keys[order], at[order]
        new = np.r_[True, (keys[1:] != keys[:-1]) | (at[1:] != at[:-1])][: len(keys)]
        self._asking = np.empty(len(keys), np.int64)  # row -> its position among the distinct ones
        self._asking[order] = np.cumsum(new) - 1
        keys, at = keys[new], at[new]
        self._num_asked, known = len(keys), keys != UNKNOWN_KEY
        asked = {"k": keys[known], "us": at[known], "place": np.flatnonzero(known)}
        self._connection.register("asked", pa.table(asked))
        self._connection.execute("CREATE OR REPLACE TEMP TABLE asking AS SELECT * FROM asked ORDER BY k, us")
        self._connection.unregister("asked")

    def newest(self, back_us: int) -> Int64:
        """[E] the newest fact of each row's key at or before its time minus back_us; NO_FACT if there is none."""
        joined = self._connection.execute(
            f"SELECT place, fact FROM asking a ASOF JOIN known ON a.k = known.k AND a.us - {back_us} >= known.us"
        ).fetchnumpy()
        found = np.full(self._num_asked, NO_FACT, np.int64)
        found[joined["place"]] = joined["fact"]
        return found[self._asking]

    def close(self) -> None:
        """Drop the temporary tables."""
        self._connection.close()


_BY_TIME = """
SELECT k, us, fact FROM facts WHERE k >= 0
QUALIFY row_number() OVER (PARTITION BY k, us ORDER BY created DESC NULLS LAST, fact DESC) = 1
"""
# at each arrival, the newest fact by (us, created) among those arrived; facts that arrive together are all included
_BY_ARRIVAL = """
SELECT k, arrived AS us, newest.fact AS fact FROM (
    SELECT k, arrived, max({'us': us, 'created': created, 'fact': fact}) OVER (
        PARTITION BY k ORDER BY arrived RANGE BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW) AS newest
    FROM (SELECT *, greatest(us, created) AS arrived FROM facts WHERE k >= 0 AND created IS NOT NULL))
QUALIFY row_number() OVER (PARTITION BY k, arrived) = 1
"""


def number_keys(facts: Sequence[pa.ChunkedArray], asking: Sequence[pa.ChunkedArray]) -> tuple[Int64, Int64]:
    """([F], [E]): one number for each combination of the facts' key columns; UNKNOWN_KEY if no fact has it."""
    of_facts, of_asking = np.zeros(len(facts[0]), np.int64), np.zeros(len(asking[0]), np.int64)
    for known, asked in zip(facts, asking, strict=True):
        values: Any = known.unique().drop_null()
        codes = [_positions(column, values) for column in (known, asked.cast(known.type))]
        packed = [
            np.where((before < 0) | (code < 0), UNKNOWN_KEY, before * max(len(values), 1) + code)
            for before, code in zip((of_facts, of_asking), codes, strict=True)
        ]
        distinct, of_facts = np.unique(
            packed[0], return_inverse=True
        )  # renumbered, since products of many columns could overflow
        place = np.minimum(np.searchsorted(distinct, packed[1]), max(len(distinct) - 1, 0))
        found = distinct[place] == packed[1] if len(distinct) else np.zeros(len(place), bool)
        of_facts = np.where(packed[0] < 0, UNKNOWN_KEY, of_facts)
        of_asking = np.where(found & (packed[1] >= 0), place, UNKNOWN_KEY)
    return of_facts, of_asking


def _positions(column: pa.ChunkedArray, values: pa.Array) -> Int64:
    found = pc.call_function("index_in", [column], pc.SetLookupOptions(value_set=values))
    return found.fill_null(UNKNOWN_KEY).to_numpy().astype(np.int64)


def take(facts: Mapping[str, pa.ChunkedArray], names: Sequence[str], chosen: Int64) -> list[pa.ChunkedArray]:
    """The named columns of the chosen facts; null for NO_FACT."""
    return [_take(facts[name], chosen) for name in names]


def _take(column: pa.ChunkedArray, chosen: Int64) -> pa.ChunkedArray:
    if not pa.types.is_list(column.type):
        taken: Any = column.take(pa.array(chosen, mask=chosen == NO_FACT))
        return taken
    lists: Any = pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)
    offsets, valid = lists.offsets.to_numpy(), lists.is_valid().to_numpy(zero_copy_only=False)
    if not len(lists):
        return pa.chunked_array([pa.nulls(len(chosen), column.type)])
    there = (chosen != NO_FACT) & valid[chosen]
    starts, ends = offsets[chosen], offsets[chosen + 1 - (chosen == NO_FACT)]
    return take_ranges(lists.values, starts.astype(np.int64), np.where(there, ends, starts).astype(np.int64), there)


def take_ranges(values: pa.Array, starts: Int64, ends: Int64, there: npt.NDArray[np.bool_]) -> pa.ChunkedArray:
    """[R] lists values[start:end), null where not `there`. Arrow's own take of lists is 4 times slower."""
    kind = pa.list_(values.type)
    pieces = []
    for first in range(0, max(len(starts), 1), LISTS_AT_ONCE):
        rows = slice(first, first + LISTS_AT_ONCE)
        counts = ends[rows] - starts[rows]
        offsets, flat = np.r_[0, np.cumsum(counts)], positions(starts[rows], counts)
        taken: Any = values.take(pa.array(flat))
        pieces.append(pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), taken, mask=pa.array(~there[rows])))
    return pa.chunked_array(pieces, kind)
