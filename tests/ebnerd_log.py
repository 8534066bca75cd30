"""EB-NeRD as published: other logs made of its files, its params, and what the stages before train make of it."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from contracts.params import load_params
from contracts.schema import QUARANTINE
from features.stages import histories, ingest, statistics
from orchestration.configure import configure
from tests.clones import ROOT

PARTS = ("train", "validation")
TIMES = ("impression_time", "impression_time_fixed")
ITEMS = ("article_id", "article_ids_inview", "article_ids_clicked", "article_id_fixed")
DAY_S = 86_400
SECOND = 1_000_000


def sections_of(log: Path, scratch: Path, **changes: Any) -> dict[str, Any]:
    """params.yaml as `make run SOURCE=ebnerd DATA=<log>` leaves it, with changes by section__key."""
    scratch.mkdir(parents=True, exist_ok=True)
    shutil.copytree(ROOT / "presets", scratch / "presets", dirs_exist_ok=True)
    shutil.copy(ROOT / "params.yaml", scratch)
    given = {key.replace("__", "."): value for key, value in changes.items()}
    configure({"source.name": "ebnerd", "source.path": str(log)} | given, scratch / "params.yaml")
    return load_params(scratch / "params.yaml")


def make(data: Path, sections: dict[str, Any]) -> Path:
    """data/ebnerd up to train; validate holds nothing of this log back."""
    ingest.run(data, sections["seed"], sections["simulator"], sections["source"])
    return count(data, sections)


def count(data: Path, sections: dict[str, Any]) -> Path:
    """Histories and statistics of the interactions in data, all of them valid."""
    (data / "validated_interactions").symlink_to(data / "interactions", target_is_directory=True)
    (data / "quarantine").mkdir()
    pq.write_table(QUARANTINE.empty_table(), data / "quarantine" / "quarantine.parquet")
    histories.run(data, sections["request"], sections["history"])
    statistics.run(data, sections["statistics"])
    return data


def of_some_users(log: Path, target: Path, one_in: int) -> Path:
    """The log of the users whose id divides by one_in."""

    def keep(table: pa.Table) -> pa.Table:
        return table.filter(pa.array(table["user_id"].to_numpy() % one_in == 0))

    return rewrite(log, target, keep)


def shifted(log: Path, target: Path, days: int) -> Path:
    """The log some days later."""
    by = pa.scalar(days * DAY_S * SECOND, pa.duration("us"))
    return rewrite(log, target, lambda table: _in_columns(table, TIMES, lambda at: pc.add(at, by)))


def renamed(log: Path, target: Path, seed: int) -> Path:
    """The log with the ids of its items dealt out anew among them."""
    known = pa.array(sorted(_items(log)))
    dealt = known.take(pa.array(np.random.default_rng(seed).permutation(len(known))))

    def rename(ids: pa.Array) -> pa.Array:
        return dealt.take(pc.index_in(ids, value_set=known.cast(ids.type))).cast(ids.type)

    return rewrite(log, target, lambda table: _in_columns(table, ITEMS, rename))


def rewrite(log: Path, target: Path, change: Callable[[pa.Table], pa.Table]) -> Path:
    """Each file of a log, changed, at the same place below target."""
    for part in PARTS:
        (target / part).mkdir(parents=True)
        for name in ("behaviors", "history"):
            path = Path(part, f"{name}.parquet")
            pq.write_table(change(pq.read_table(log / path)), target / path)
    return target


def _items(log: Path) -> set[int]:
    found: set[int] = set()
    for path in sorted(log.glob("*/*.parquet")):
        table = pq.read_table(path)
        for name in set(ITEMS) & set(table.column_names):
            values = table[name].combine_chunks()
            flat = values.flatten() if pa.types.is_large_list(values.type) else values
            found |= set(pc.unique(flat.drop_null()).to_pylist())
    return found


def _in_columns(table: pa.Table, names: tuple[str, ...], change: Callable[[pa.Array], pa.Array]) -> pa.Table:
    """Change the values of these columns, inside lists too."""
    for name in set(names) & set(table.column_names):
        found = table[name].combine_chunks()
        is_list = pa.types.is_large_list(found.type)
        made = pa.LargeListArray.from_arrays(found.offsets, change(found.values)) if is_list else change(found)
        table = table.set_column(table.column_names.index(name), name, made)
    return table
