"""item_counters, user_counters, user_item_counters and co-clicks, over one numbering of items and users. numpy only.

A key is an int64: the rank of an item in the vocabulary (item_index - FIRST_INDEX), a user_index, or pair_key of both.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from features.encoding import mapped
from features.encoding.as_of import AsOfCounter, AsOfCounts
from features.encoding.coclicks import Coclicks
from features.terms.convention import counted_at

Int64 = npt.NDArray[np.int64]

PAIR_RADIX = 1 << 31
"""The key of (user, item) is user x PAIR_RADIX + item: items may be added without renumbering the pairs."""
NAMES = ("item_counters", "user_counters", "user_item_counters")
KEYS = {"item_counters": ("item_id",), "user_counters": ("user_id",), "user_item_counters": ("user_id", "item_id")}
ITEMS = "item_counters"
COCLICKS = "coclicks"


ROWS_AT_ONCE = 1 << 20
"""Rows of a table whose ids are in memory at a time."""
NOTHING = AsOfCounter.from_rows(*np.zeros((4, 0), np.int64))
"""A table without a row."""


@dataclass(frozen=True)
class Counters:
    """All counters. Training and serving use the same class."""

    item_counters: AsOfCounts
    user_counters: AsOfCounts
    user_item_counters: AsOfCounts
    coclicks: Coclicks | None = None  # None where statistics.coclick_rank is 0

    def pair_key(self, user_keys: npt.ArrayLike, item_keys: npt.ArrayLike) -> Int64:
        """The key of (user, item) in user_item_counters; -1 where either is unknown."""
        users, items = np.asarray(user_keys, np.int64), np.asarray(item_keys, np.int64)
        return np.where((users >= 0) & (items >= 0), users * PAIR_RADIX + items, -1)

    @classmethod
    def from_folder(cls, data: Path, item_ids: Any, user_ids: Any) -> "Counters":
        """Read data/{item,user,user_item}_counters and coclicks; a key is the id's position in item_ids or user_ids.

        item_ids: the vocabulary's item_id column; user_ids: users.parquet's user_id column.
        """
        ids = {"item_id": item_ids, "user_id": user_ids}
        tables = {name: from_parquet(data / name, {key: ids[key] for key in KEYS[name]}) for name in NAMES}
        coclicks = Coclicks.from_folder(data / "coclicks", item_ids, user_ids)
        return cls(**tables, coclicks=coclicks)

    @classmethod
    def of_items(cls, data: Path, item_ids: Any, user_ids: Any) -> "Counters":
        """Like from_folder, with item counters and co-clicks only."""
        coclicks = Coclicks.from_folder(data / "coclicks", item_ids, user_ids)
        return cls(from_parquet(data / ITEMS, {"item_id": item_ids}), NOTHING, NOTHING, coclicks)

    @classmethod
    def of_table(cls, item_counters: AsOfCounter) -> "Counters":
        """Item counters only, without co-clicks."""
        return cls(item_counters, NOTHING, NOTHING)

    def before(self, at_us: int, bucket_us: int = 0) -> "Counters":
        """The counters as of a time (strictly before). Only for a log's own counters, not for live ones.

        bucket_us: bucket length of the counters; the time must be the start of a bucket.
        """
        tables: dict[str, AsOfCounter] = {name: getattr(self, name) for name in NAMES}
        coclicks = None if self.coclicks is None else self.coclicks.before(at_us)
        newest = counted_at(at_us - 1, bucket_us)
        return Counters(**{name: table.before(newest + 1) for name, table in tables.items()}, coclicks=coclicks)

    def save(self, folder: Path) -> None:
        """Write item_counters and co-clicks into the folder. Counts of users are rows of the online store instead."""
        table = self.item_counters
        assert isinstance(table, AsOfCounter)
        derived = {"clicked_at": table.clicked_at} | ({} if table.shown_row is None else {"shown_row": table.shown_row})
        mapped.save({each.name: getattr(table, each.name) for each in fields(table)} | derived, folder, ITEMS)
        if self.coclicks is not None:
            mapped.save(self.coclicks.arrays() | self.coclicks.sums(), folder, COCLICKS)

    @classmethod
    def load(cls, folder: Path) -> "Counters":
        """Memory-map what `save` wrote. User counters are empty."""
        arrays = mapped.load(folder, ITEMS)
        if missing := ({each.name for each in fields(AsOfCounter)} | {"clicked_at"}) - arrays.keys():
            raise FileNotFoundError(f"{folder} lacks {ITEMS}.{min(missing)}.npy")
        table = AsOfCounter(**{each.name: arrays[each.name] for each in fields(AsOfCounter)})
        # columns derived from all rows are computed once, when saved
        vars(table).update(clicked_at=arrays["clicked_at"], shown_row=arrays.get("shown_row"))
        clicks = mapped.load(folder, COCLICKS)
        return cls(table, NOTHING, NOTHING, coclicks=Coclicks.of(clicks) if clicks else None)


def from_parquet(folder: Path | Sequence[Path], ids: Mapping[str, Sequence[str] | Any]) -> AsOfCounter:
    """Read one counters table (contracts.schema.counters).

    folder: folder of the partitions, or a list of them. ids: key column -> ids, whose positions are the keys; two key
        columns give a pair_key.
    """
    import pyarrow.dataset as ds

    files = folder if isinstance(folder, Path) else [str(path) for path in folder]
    if not files:
        return NOTHING
    dataset, first = ds.dataset(files, format="parquet"), 0
    keys, occurred_at, shows, clicks = np.empty((4, dataset.count_rows()), np.int64)
    for rows in _some_at_once(dataset, [*ids, "occurred_at", "shows", "clicks"]):
        here = slice(first, first := first + len(rows))
        keys[here] = _keys_of(rows, ids, folder)
        occurred_at[here] = rows["occurred_at"].cast("int64").to_numpy()
        shows[here], clicks[here] = rows["shows"].to_numpy(), rows["clicks"].to_numpy()
    return AsOfCounter.from_rows(keys, occurred_at, shows, clicks)


def _some_at_once(dataset: Any, columns: list[str]) -> Iterator[Any]:
    """The rows as tables of ROWS_AT_ONCE or somewhat more: the ids of keys are looked up once for each."""
    import pyarrow as pa

    held, num_rows = [], 0
    for batch in dataset.scanner(columns, batch_readahead=1, fragment_readahead=1).to_batches():
        held.append(batch)
        num_rows += len(batch)
        if num_rows >= ROWS_AT_ONCE:
            yield pa.Table.from_batches(held)
            held, num_rows = [], 0
    if held:
        yield pa.Table.from_batches(held)


def _keys_of(rows: Any, ids: Mapping[str, Sequence[str] | Any], folder: Path | Sequence[Path]) -> Int64:
    import pyarrow as pa
    import pyarrow.compute as pc

    keys = np.zeros(len(rows), np.int64)
    for column, known in ids.items():
        value_set = known if isinstance(known, pa.Array | pa.ChunkedArray) else pa.array(known, pa.string())
        position = pc.call_function("index_in", [rows[column]], pc.SetLookupOptions(value_set=value_set))
        position = position.fill_null(-1).to_numpy()
        if (position < 0).any():
            bad = rows[column][int(np.argmax(position < 0))].as_py()
            raise ValueError(
                f"{folder}: {column} {bad!r} is not in the vocabulary. Run histories and statistics again."
            )
        keys *= PAIR_RADIX
        keys += position  # of one column, the position itself
    return keys
