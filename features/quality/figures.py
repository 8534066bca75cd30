"""Valid rows by partition -> figures of each partition by itself, its rows by item, its users; cached by content.

Partitions are counted in batches, and a batch is counted once for its content (.cache/validate/<log>).
"""
# pyright: reportAttributeAccessIssue=false

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from contracts.known_hashes import hash_of
from contracts.schema import ROLE_IMPRESSION
from features.engine.engine import Engine
from features.quality.batches import batches_of
from features.quality.code import code
from features.tables.cache import PartitionCache, key_of
from features.tables.connection import connect
from features.terms.convention import CLICKED

BATCH_ROWS = 250_000
"""Whole partitions are counted together until they have this many rows."""
TABLES = ("figures", "items", "users")
MINUTE_US = 60_000_000
NEGATIVE = "-[0-9]+"

_BY_PARTITION = f"""
    SELECT place, count(*) AS rows_valid, count(DISTINCT user_id) AS users, count(DISTINCT item_id) AS items,
        count(DISTINCT impression_id) AS requests, count(*) FILTER (label >= {CLICKED}) AS clicks,
        min(occurred_at) AS first_at, max(occurred_at) AS last_at,
        avg((label >= {CLICKED})::DOUBLE) FILTER (role = '{ROLE_IMPRESSION}') AS click_rate,
        count(impression_id) / nullif(count(DISTINCT impression_id), 0) AS rows_per_request,
        count(*) / count(DISTINCT user_id) AS rows_per_user,
        count(*) FILTER (user_id SIMILAR TO '{NEGATIVE}' OR item_id SIMILAR TO '{NEGATIVE}') AS negative_ids
    FROM log GROUP BY place
"""
_REQUESTS = f"""
    SELECT place, avg(alone::INT::DOUBLE) AS all_clicked_share FROM (
        SELECT place, impression_id, min(label) >= {CLICKED} AND count(*) > 1 AS alone FROM log
        WHERE impression_id IS NOT NULL AND role = '{ROLE_IMPRESSION}' GROUP BY ALL) GROUP BY place
"""
_RATES = f"""
    SELECT place, max(most) AS most_per_minute, max(num)::BIGINT AS busiest FROM (
        SELECT place, user_id, max(num_times) AS most, sum(num) AS num FROM (
            SELECT place, user_id, epoch_us(occurred_at) // {MINUTE_US} AS minute, count(*) AS num,
                count(DISTINCT occurred_at) AS num_times
            FROM log WHERE role = '{ROLE_IMPRESSION}' GROUP BY ALL) GROUP BY ALL) GROUP BY place
"""
_GAPS = """
    SELECT place, max(at_us - coalesce(before, at_us)) AS longest_gap_us FROM (
        SELECT place, at_us, lag(at_us) OVER (PARTITION BY place ORDER BY at_us) AS before FROM (
            SELECT DISTINCT place, epoch_us(occurred_at) AS at_us FROM log)) GROUP BY place
"""
_FIGURES = f"""
    SELECT * FROM ({_BY_PARTITION}) LEFT JOIN ({_REQUESTS}) USING (place) LEFT JOIN ({_RATES}) USING (place)
    LEFT JOIN ({_GAPS}) USING (place) ORDER BY place
"""
_ITEMS = "SELECT place, item_id, count(*) AS num FROM log GROUP BY ALL ORDER BY place, item_id"
_USERS = "SELECT DISTINCT user_id FROM log ORDER BY user_id"


@dataclass(frozen=True)
class Figures:
    """What was counted of all partitions."""

    of: pa.Table  # one row per partition; place: of its file among all files
    items: Sequence[tuple[Path, int]]  # per batch: file of (place in the batch, item_id, num), place of its first file
    totals: Mapping[str, int]  # of the whole log
    key: str  # of everything here
    keys: frozenset[str]  # of the entries in the cache


@dataclass(frozen=True)
class Counting:
    """A batch to count."""

    cache: Path
    key: str
    files: Sequence[Path]


def count_figures(valid: Sequence[Path], cache: PartitionCache, engine: Engine) -> Figures:
    """Figures of every partition; batches that have not changed come from the cache."""
    batches = [
        (first, Counting(cache.folder, key_of(code(), "figures", *_named(files)), files))
        for first, files in batches_of(valid, BATCH_ROWS)
    ]
    missing = [each for _, each in batches if not cache.holds(each.key)]
    cache.came(engine.map(count_batch, missing, "counting batches"), (each.key for each in missing))
    found, items = [], []
    for first, each in batches:
        table = pq.read_table(cache.file(each.key, "figures"))
        place = pa.array([each + first for each in table["place"].to_pylist()], pa.int64())
        found.append(table.set_column(table.column_names.index("place"), "place", place))
        items.append((cache.file(each.key, "items"), first))
    of, keys = pa.concat_tables(found), [each.key for _, each in batches]
    total = key_of(code(), "totals", keys)
    if (totals := cache.noted(total)) is None:
        totals = {"rows_valid": pc.sum(of["rows_valid"]).as_py(), "num_clicks": pc.sum(of["clicks"]).as_py()}
        totals |= {f"num_{name}": _num_distinct(name, [cache.file(key, name) for key in keys]) for name in TABLES[1:]}
        cache.note(total, totals)
    return Figures(of, items, totals, total, frozenset([*keys, total]))


def _num_distinct(table: str, files: Sequence[Path]) -> int:
    """How many items or users the log has."""
    with connect() as connection:
        names = f"read_parquet({[str(file) for file in files]})"
        ((num,),) = connection.sql(f"SELECT count(DISTINCT {table[:-1]}_id) FROM {names}").fetchall()
    return num


def _named(files: Sequence[Path]) -> tuple[list[str], list[str]]:
    return [file.stem for file in files], [hash_of(file) for file in files]


def count_batch(batch: Counting) -> str:
    """Count a batch and put the figures into the cache; returns the key."""
    key, files, cache = batch.key, batch.files, PartitionCache(batch.cache)
    with cache.making() as making, connect() as connection:
        connection.execute(
            "CREATE TEMP TABLE places AS SELECT unnest(?::VARCHAR[]) AS filename, unnest(range(?)) AS place",
            [[str(file) for file in files], len(files)],
        )
        connection.execute(f"""
            CREATE TEMP TABLE log AS SELECT place, user_id, item_id, occurred_at, label, impression_id, role
            FROM read_parquet({[str(file) for file in files]}, filename = true) JOIN places USING (filename)
        """)
        (making / key).mkdir()
        num_rows = {}
        for name, query in zip(TABLES, (_FIGURES, _ITEMS, _USERS), strict=True):
            table = connection.sql(query).to_arrow_table()
            pq.write_table(table, making / key / f"{name}.parquet")
            num_rows[name] = len(table)
        cache.put(key, making / key, num_rows)
    return key
