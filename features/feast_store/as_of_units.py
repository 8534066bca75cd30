"""Ranges of an entity table's rows -> Parquet files with their features: units of work of an engine.

A unit reads the facts of the keys that its rows ask for, until the newest of their times, and joins them as one process
would join all (as_of_rows.py). The files in turn are the rows in the table's order.
"""

import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple
from uuid import uuid4

import pyarrow as pa
import pyarrow.parquet as pq

from features.engine.engine import running
from features.feast_store.as_of_rows import AskedView, retrieve_as_of
from features.tables import duck
from features.tables.arrow_file import read_arrow, store_arrow
from features.terms.params import EngineParams

ROWS_AT_ONCE = 250_000
"""Rows of a unit; it reads all facts' keys, so fewer of them cost more."""
ENTITIES = "entities.arrow"


class Rows(NamedTuple):
    """A unit: rows [first, last) of the entity table."""

    first: int
    last: int


@dataclass(frozen=True)
class Retrieval:
    """What is retrieved, the same for all units. folder: of the entity table and the parts; every executor sees it."""

    folder: Path
    time: str
    asked: tuple[AskedView, ...]
    repo_path: str
    by_arrival: bool

    def join(self, entities: pa.Table, engine: EngineParams) -> list[Path]:
        """The parts, in the order of the rows; at least one."""
        store_arrow(entities, self.folder / ENTITIES)
        firsts = range(0, max(len(entities), 1), ROWS_AT_ONCE)
        units = [Rows(first, min(first + ROWS_AT_ONCE, len(entities))) for first in firsts]
        with running(engine, self.folder) as runner:
            parts = list(runner.map(partial(join_rows, self), units, "features as of their times"))
        (self.folder / ENTITIES).unlink()
        return parts


def join_rows(retrieval: Retrieval, rows: Rows) -> Path:
    """Write the part of a range of rows, under its name by rename."""
    entities = read_arrow(retrieval.folder / ENTITIES).slice(rows.first, rows.last - rows.first)
    part = retrieval.folder / f"{rows.first:012}.parquet"
    with tempfile.TemporaryDirectory(prefix=".joining-", dir=retrieval.folder) as scratch:
        with duck.as_default(Path(scratch)):
            joined = retrieve_as_of(
                entities, retrieval.time, retrieval.asked, retrieval.repo_path, retrieval.by_arrival, of_asked=True
            )
        making = Path(scratch) / part.name
        pq.write_table(joined, making, compression="zstd")
        os.replace(making, part)
    return part


def read_parts(parts: Sequence[Path]) -> pa.Table:
    """All rows of the parts, in order."""
    return pa.concat_tables([pq.read_table(part) for part in parts])


def new_folder(shared: Path) -> Path:
    """An empty folder of its own for a retrieval."""
    folder = shared.absolute() / f"retrieved-{uuid4().hex}"
    folder.mkdir(parents=True)
    return folder
