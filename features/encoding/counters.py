"""item_counters, user_counters, user_item_counters and co-clicks, over one numbering of items and users. numpy only.

A key is an int64: the rank of an item in the vocabulary (item_index - FIRST_INDEX), a user_index, or pair_key of both.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from features.encoding import counter_layers
from features.encoding.as_of import AsOfCounter, AsOfCounts
from features.encoding.coclicks import Coclicks
from features.terms.convention import counted_at

Int64 = npt.NDArray[np.int64]

PAIR_RADIX = 1 << 31
"""The key of (user, item) is user x PAIR_RADIX + item: items may be added without renumbering the pairs."""
NAMES = ("item_counters", "user_counters", "user_item_counters")
KEYS = {"item_counters": ("item_id",), "user_counters": ("user_id",), "user_item_counters": ("user_id", "item_id")}
COCLICKS = "coclicks.npz"


@dataclass(frozen=True)
class Counters:
    """What has been counted. The same object in training and in serving."""

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

    def before(self, at_us: int, bucket_us: int = 0) -> "Counters":
        """What is counted of all that happened strictly before a time. Of a log's own counters, not of live ones.

        bucket_us: by which they were counted; the time is where a bucket begins.
        """
        tables: dict[str, AsOfCounter] = {name: getattr(self, name) for name in NAMES}
        coclicks = None if self.coclicks is None else self.coclicks.before(at_us)
        newest = counted_at(at_us - 1, bucket_us)
        return Counters(**{name: table.before(newest + 1) for name, table in tables.items()}, coclicks=coclicks)

    def save(self, folder: Path) -> None:
        """Write one uncompressed .npz a table into folder."""
        for name in NAMES:
            table: AsOfCounter = getattr(self, name)
            held = {each.name: getattr(table, each.name) for each in fields(table)}
            np.savez(folder / f"{name}.npz", **held)
        if self.coclicks is not None:
            arrays: dict[str, Any] = self.coclicks.arrays()
            np.savez(folder / COCLICKS, **arrays)

    @classmethod
    def load(cls, folder: Path) -> "Counters":
        """Read what save wrote, and what counter_layers.save wrote beside it."""
        tables: dict[str, AsOfCounter] = {}
        for name in NAMES:
            with np.load(folder / f"{name}.npz", allow_pickle=False) as arrays:
                held = {key: arrays[key] for key in arrays.files}
            tables[name] = AsOfCounter(**held)
        if later := counter_layers.load(NAMES, folder):
            tables = {name: counter_layers.extended(table, later[name]) for name, table in tables.items()}
        _ = tables["item_counters"].clicked_at  # now: the first request shall not wait for it
        for table in tables.values():
            _ = table.shown_row
        coclicks = None
        if (folder / COCLICKS).exists():
            with np.load(folder / COCLICKS, allow_pickle=False) as arrays:
                coclicks = Coclicks.of({key: arrays[key] for key in arrays.files})
        return cls(**tables, coclicks=coclicks)


def from_parquet(folder: Path | Sequence[Path], ids: Mapping[str, Sequence[str] | Any]) -> AsOfCounter:
    """Read one counters table (contracts.schema.counters).

    folder: holds its partitions; or these themselves. ids: key column -> ids whose positions number it; several make a
        pair_key.
    """
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.dataset as ds

    from contracts.schema import counters

    files = folder if isinstance(folder, Path) else [str(path) for path in folder]
    table = ds.dataset(files, format="parquet").to_table() if files else counters(*ids).empty_table()
    keys = np.zeros(table.num_rows, np.int64)
    for column, known in ids.items():
        value_set = known if isinstance(known, pa.Array | pa.ChunkedArray) else pa.array(known, pa.string())
        position = pc.call_function("index_in", [table[column]], pc.SetLookupOptions(value_set=value_set))
        position = position.fill_null(-1).to_numpy().astype(np.int64)
        if (position < 0).any():
            bad = table[column][int(np.argmax(position < 0))].as_py()
            raise ValueError(
                f"{folder}: {column} {bad!r} is not in the vocabulary. Run histories and statistics again."
            )
        keys = keys * PAIR_RADIX + position  # of one column, the position itself
    occurred_at = pc.cast(table["occurred_at"], pa.int64()).to_numpy()
    return AsOfCounter.from_rows(keys, occurred_at, table["shows"].to_numpy(), table["clicks"].to_numpy())
