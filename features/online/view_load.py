"""Row groups of a view's file in the snapshot -> its rows online, where they changed: a unit of work of an engine.

A unit covers a range of ids: from the first id of its row groups to the first of the next unit's. Rows of the previous
load in that range that the snapshot lacks are removed. What is done depends on the files alone, not on what the store
holds, and each row is written as a whole, so a unit that runs twice, or again after it was killed, ends the same.
"""

import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from contracts.errors import InputError
from contracts.files import written
from features.online.changes import Difference, ViewRows

if TYPE_CHECKING:
    from feast import FeatureStore

EVENT_TIME = "event_timestamp"
ROWS_AT_ONCE = 16_384
"""Least rows of a unit that is not a view's last: some seconds of work, beside which starting a task costs nothing."""
WRITTEN = "written"
"""Column of a part: whether the row was written."""


class Groups(NamedTuple):
    """A unit: row groups [first, last) of the view's file."""

    first: int
    last: int


class Loaded(NamedTuple):
    """What a unit did. part: a Parquet file of ViewRows' columns and WRITTEN, of the rows of its row groups."""

    part: Path
    num_rows: int
    num_written: int
    num_removed: int


@dataclass(frozen=True)
class ViewLoad:
    """A view that is loaded, the same for all of its units."""

    feast: bytes = field(repr=False)  # Feast's configuration, pickled: the new state, the store with its password
    view: str
    key: str  # column of ids
    rows: Path  # the view's file in the snapshot, sorted by id
    before: Path | None  # rows of the previous load, or of the store where that is not known; None: none
    parts: Path  # folder for the parts
    writer: str | None  # the load's token in Redis

    def units(self) -> list[Groups]:
        """All row groups, in order; one unit without any, which removes what the previous load has."""
        with reading(self.rows) as parquet:
            counts = [parquet.metadata.row_group(number).num_rows for number in range(parquet.num_row_groups)]
        firsts, rows = [0], 0
        for number, count in enumerate(counts):
            if rows >= ROWS_AT_ONCE:
                firsts.append(number)
                rows = 0
            rows += count
        return [Groups(*bounds) for bounds in zip(firsts, [*firsts[1:], len(counts)], strict=True)]


def load_groups(load: ViewLoad, groups: Groups) -> Loaded:
    """Write, restamp and remove rows of a view. Raises InputError if the file is not sorted by distinct ids."""
    from features.feast_store import online_rows

    feast = _opened(load.feast)
    online_rows.write_for(feast, load.writer)
    view = feast.get_feature_view(load.view)
    with reading(load.rows) as parquet:
        first, end = _range_of(parquet, load.key, groups)
        before = ViewRows.none() if load.before is None else ViewRows.read(load.before, first, end)
        difference, pieces, last = Difference(before), [], None
        for number in range(groups.first, groups.last):
            piece = parquet.read_row_group(number)
            last = _check_order(load, piece[load.key], last, end)
            rows = ViewRows.of(piece, load.key, EVENT_TIME)
            changes = difference.compare(rows)
            changed, ids = piece.filter(pa.array(changes.written)), piece[load.key]
            online_rows.overwrite(feast, view, changed, ids.filter(pa.array(changes.replaced)).to_pylist())
            late = piece.select([load.key, EVENT_TIME]).filter(pa.array(changes.restamped))
            online_rows.restamp(feast, view, late[load.key].to_pylist(), late[EVENT_TIME].cast(pa.int64()).to_pylist())
            pieces.append(rows.table.append_column(WRITTEN, pa.array(changes.written)))
    gone = difference.gone()
    online_rows.remove(feast, view, gone)
    done = pa.concat_tables(pieces or [ViewRows.none().table.append_column(WRITTEN, pa.array([], pa.bool_()))])
    num_written = int(np.count_nonzero(done[WRITTEN].to_numpy()))
    return Loaded(_put(done, load.parts / f"{groups.first:08}.parquet"), len(done), num_written, len(gone))


@contextmanager
def reading(path: Path) -> Iterator[pq.ParquetFile]:
    """A file of the snapshot. Raises InputError if it cannot be read."""
    try:
        with pq.ParquetFile(path) as parquet:
            yield parquet
    except (OSError, pa.ArrowInvalid) as error:
        raise InputError(
            f"{path} cannot be read: {error}. `make run` makes it again, `make pull` fetches it."
        ) from error


def _range_of(parquet: pq.ParquetFile, key: str, groups: Groups) -> tuple[str | None, str | None]:
    """The range of ids [first, end) that a unit covers; None: unbounded. Ranges of a view's units join."""
    first = _first_id(parquet, key, groups.first) if groups.first else None
    end = _first_id(parquet, key, groups.last) if groups.last < parquet.num_row_groups else None
    return first, end


def _first_id(parquet: pq.ParquetFile, key: str, group: int) -> str:
    return parquet.read_row_group(group, columns=[key])[key][0].as_py()


def _check_order(load: ViewLoad, ids: pa.ChunkedArray, last: str | None, end: str | None) -> str | None:
    """Returns the last id. last: of the rows before these; end: the first one after the unit. None: there is none."""
    edges = [pa.array([] if each is None else [each], pa.string()) for each in (last, end)]
    whole: pa.Array = pa.concat_arrays([edges[0], *ids.chunks, edges[1]])
    wrong = np.flatnonzero(~pc.call_function("less", [whole[:-1], whole[1:]]).to_numpy(zero_copy_only=False))
    if len(wrong):
        one, other = (whole[int(wrong[0]) + place].as_py() for place in (0, 1))
        raise InputError(
            f"{load.rows} is not sorted by distinct {load.key}: {one!r} comes before {other!r}. `make run` makes it "
            "again."
        )
    return ids[-1].as_py() if len(ids) else last


def _put(rows: pa.Table, path: Path) -> Path:
    """Write a part under its name by rename; another attempt writes the same bytes."""
    with written(path, lasting=False) as making:
        pq.write_table(rows, making, use_dictionary=False, compression="none")
    return path


@lru_cache(maxsize=1)
def _opened(config: bytes) -> "FeatureStore":
    """Feast over a state folder, open until another is asked for: units in one process share connections."""
    from feast import FeatureStore

    return FeatureStore(config=pickle.loads(config))
