"""A batch of partitions -> its marks, cached by content: hashes of event_ids and requests, and rows that break a rule.

Relations between rows are found by these hashes alone (features/tables/runs.py), so that a log is read only once.
"""

# pyright: reportAttributeAccessIssue=false

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from contracts.known_hashes import hash_of
from contracts.publish import write_json
from features.quality.code import code
from features.tables.cache import PartitionCache, key_of
from features.tables.connection import connect
from features.tables.runs import RunWriter
from features.terms.rules import SEVERAL_USERS, Rule

TABLES = ("names.arrow", "requests.arrow", "broken", "totals.json")
_REQUESTS = """
    SELECT hash(impression_id) AS key, min(hash(user_id)) AS low, max(hash(user_id)) AS high FROM rows
    WHERE impression_id IS NOT NULL AND user_id IS NOT NULL GROUP BY key ORDER BY key
"""


@dataclass(frozen=True)
class Marks:
    """The marks of a batch of partitions."""

    first: int  # place of its first file among all files of the log
    files: Sequence[Path]
    key: str  # in the cache
    names: Path  # runs of hash(event_id)
    requests: Path  # runs of hash(impression_id), with the lowest and the highest hash(user_id)
    broken: Path  # place (in the batch) and row of each row that breaks a rule by itself
    totals: Mapping[str, int]  # reason -> rows that break it


def mark(first: int, files: Sequence[Path], rules: Sequence[Rule], cache: PartitionCache) -> Marks:
    """The marks of a batch, from the cache if it has not changed."""
    alone = [rule for rule in rules if is_of_one_row(rule)]
    conditions = [(rule.reason, rule.condition) for rule in alone]
    key = key_of(code(), "marks", conditions, [hash_of(file) for file in files])
    if not cache.holds(key):
        with cache.making() as making, connect() as connection:
            (making / key).mkdir()
            as_rows(connection, files)
            num = _make(connection, alone, making / key)
            cache.put(key, making / key, dict(zip(TABLES, num, strict=True)))
    names, requests, broken, totals = (cache.file(key, table) for table in TABLES)
    return Marks(first, files, key, names, requests, broken, json.loads(totals.read_text(encoding="utf-8")))


def is_of_one_row(rule: Rule) -> bool:
    """Whether the rule depends on one row only."""
    return rule.arguments["column"] != SEVERAL_USERS


def as_rows(connection: duckdb.DuckDBPyConnection, files: Sequence[Path]) -> None:
    """Create the view `rows`: the rows of a batch, with the place of their file and their number in it."""
    connection.execute(
        "CREATE TEMP TABLE places AS SELECT unnest(?::VARCHAR[]) AS filename, unnest(range(?)) AS place",
        [[str(file) for file in files], len(files)],
    )
    connection.execute(f"""
        CREATE TEMP VIEW rows AS SELECT *, file_row_number AS row
        FROM read_parquet({[str(file) for file in files]}, filename = true, file_row_number = true)
        JOIN places USING (filename)
    """)


def _make(connection: duckdb.DuckDBPyConnection, rules: Sequence[Rule], folder: Path) -> list[int]:
    names, requests = RunWriter(folder / TABLES[0]), RunWriter(folder / TABLES[1], pa.uint64())
    keys = connection.sql("SELECT hash(event_id) AS key FROM rows").fetchnumpy()["key"]
    names.add(np.sort(np.asarray(keys, np.uint64)))
    names.close()
    found = connection.sql(_REQUESTS).fetchnumpy()
    requests.add(*(np.asarray(found[name], np.uint64) for name in ("key", "low", "high")))
    requests.close()
    each = "".join(f", {rule.condition} AS r{n}" for n, rule in enumerate(rules))
    any_of = " OR ".join(f"r{n}" for n in range(len(rules))) or "false"
    broken = connection.sql(
        f"SELECT * FROM (SELECT place, row{each} FROM rows) WHERE {any_of} ORDER BY place, row"
    ).to_arrow_table()
    totals = {rule.reason: pc.sum(broken[f"r{n}"]).as_py() or 0 for n, rule in enumerate(rules)}
    pq.write_table(broken.select(["place", "row"]), folder / f"{TABLES[2]}.parquet")
    write_json(folder / TABLES[3], totals)
    return [len(keys), len(found["key"]), len(broken), 0]
