"""Partitions of interactions and the rules -> which rows are bad and why, and which repeat another, by DuckDB."""
# pyright: reportAttributeAccessIssue=false

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from contracts.publish import write_json
from features.quality.batches import batches_of
from features.quality.code import code
from features.quality.marks import Marks, as_rows, is_of_one_row, mark
from features.tables.cache import PartitionCache, key_of
from features.tables.connection import connect
from features.tables.runs import Keys, apart, held, repeated
from features.terms.event_id import IDENTITY
from features.terms.rules import REPEATED, REPETITION, SEVERAL_USERS, Rule

BATCH_ROWS = 250_000
"""Whole partitions are read together until they have this many rows."""
COLUMNS = ("partition", "row", "reason", "repetition", "num_users")
KEYS = "keys.json"


@dataclass(frozen=True)
class Flaws:
    """Rows that break a rule or share their event_id, sorted by (partition, row)."""

    partition: np.ndarray  # place of the row's file among the files
    row: np.ndarray  # place of the row in its file
    reason: np.ndarray  # None if the row breaks no rule and only shares its event_id with another
    repetition: np.ndarray  # 0 for the first sound row of an event_id; the others are duplicates
    num_users: np.ndarray  # of the row's impression
    num_rows_by_rule: Mapping[str, int]  # a row may break several rules
    num_differing: int  # duplicates whose content differs from that of the row with the same event_id
    keys: frozenset[str]  # of the entries in the cache

    def of(self, partition: int) -> slice:
        """The slice of one partition's rows."""
        start, end = np.searchsorted(self.partition, [partition, partition + 1])
        return slice(int(start), int(end))

    def only(self, first: int, last: int) -> "Flaws":
        """The flaws of partitions `first` to `last`; the totals are unchanged."""
        here = slice(self.of(first).start, self.of(last).stop)
        columns = {name: getattr(self, name)[here] for name in COLUMNS}
        return replace(self, **columns)

    def judged(self, table: pa.Table, partition: int) -> pa.Table:
        """A partition's interactions with the two columns that depend on other rows: REPETITION and SEVERAL_USERS."""
        here = self.of(partition)
        repetition, num_users = np.zeros(len(table), np.int64), np.ones(len(table), np.int64)
        repetition[self.row[here]] = self.repetition[here]
        num_users[self.row[here]] = self.num_users[here]
        return table.append_column(REPETITION, pa.array(repetition)).append_column(SEVERAL_USERS, pa.array(num_users))


def find_flaws(files: Sequence[Path], rules: Sequence[Rule], cache: PartitionCache) -> Flaws:
    """Judge every row of all files. A row's reason is the first rule that it breaks.

    The marks of a batch of files are cached by content, and so are its rows that break a rule or have a twin (a row
    with the same event_id), keyed by the twins and requests of other rows too. Twins are found by the hash of their
    event_id, which takes a quarter of the memory; rows that only share the hash are not counted as repetitions. Where
    every file is as it was, all of this is cached.
    """
    marks = [mark(first, batch, rules, cache) for first, batch in batches_of(files, BATCH_ROWS)]
    asked = [(rule.reason, rule.condition) for rule in rules]
    key = key_of(code(), "flaws", asked, [(each.first, each.key) for each in marks])
    if not cache.holds(key):
        made, keys = _find(marks, rules, cache)
        with cache.making() as making:
            (making / key).mkdir()
            pq.write_table(pa.table(dict(made)), making / key / "found.parquet")
            write_json(making / key / KEYS, {"keys": sorted(keys)})
            cache.put(key, making / key, {"found": len(made["place"]), KEYS: 0})
    table = pq.ParquetFile(cache.file(key, "found")).read()
    found = {name: table[name].to_numpy() for name in table.column_names}
    keys = {key, *json.loads(cache.file(key, KEYS).read_text(encoding="utf-8"))["keys"]}
    reasons = np.array([*(rule.reason for rule in rules), None], dtype=object)
    num_rows = {rule.reason: sum(each.totals.get(rule.reason, 0) for each in marks) for rule in rules}
    for rule in rules:
        if not is_of_one_row(rule):
            num_rows[rule.reason] = int((found["num_users"] > 1).sum())
    is_repeated = found["repetition"] > 0
    num_rows[REPEATED] = int(is_repeated.sum())
    num_differing = int((is_repeated & found["differs"]).sum())
    where = (found["place"], found["row"], reasons[found["rule"]])
    return Flaws(*where, found["repetition"], found["num_users"], num_rows, num_differing, frozenset(keys))


def _find(
    marks: Sequence[Marks], rules: Sequence[Rule], cache: PartitionCache
) -> tuple[Mapping[str, np.ndarray], set[str]]:
    """The flawed rows of all batches together, in order, and the keys of the cache that they come from."""
    twins = repeated([each.names for each in marks])
    crowded = apart([each.requests for each in marks], 0)
    keys = {each.key for each in marks}
    with connect() as connection:
        keys |= _several_users(connection, marks, crowded, cache)
        flawed = [(each.first, *_flawed(connection, each, twins, crowded, rules, cache)) for each in marks]
        keys |= {key for _, key, _ in flawed if key}
        return _in_all(connection, [(first, path) for first, _, path in flawed if path]), keys


def _several_users(
    connection: duckdb.DuckDBPyConnection, marks: Sequence[Marks], crowded: Keys, cache: PartitionCache
) -> set[str]:
    """Create the table `shared`: impression_ids that several users have. Returns keys of the cache."""
    keys, paths = set[str](), list[str]()
    for each in marks:
        if not len(mine := held(each.requests, crowded)):
            continue
        key = key_of(code(), "users", each.key, hashlib.sha256(mine.tobytes()).hexdigest())
        if not cache.holds(key):
            with cache.making() as making, connect() as other:
                (making / key).mkdir()
                as_rows(other, each.files)
                other.register("crowded", pa.table({"key": mine}))
                pairs = other.sql(
                    "SELECT DISTINCT impression_id, user_id FROM rows WHERE user_id IS NOT NULL "
                    "AND hash(impression_id) IN (SELECT key FROM crowded)"
                ).to_arrow_table()
                pq.write_table(pairs, making / key / "users.parquet")
                cache.put(key, making / key, {"users": len(pairs)})
        keys.add(key)
        paths.append(str(cache.file(key, "users")))
    source = f"read_parquet({paths})" if paths else "(SELECT '' AS impression_id, '' AS user_id) WHERE false"
    connection.execute(f"""
        CREATE TEMP TABLE shared AS SELECT impression_id, count(DISTINCT user_id) AS num_users FROM {source}
        GROUP BY impression_id HAVING count(DISTINCT user_id) > 1
    """)
    return keys


def _flawed(
    connection: duckdb.DuckDBPyConnection,
    marks: Marks,
    twins: Keys,
    crowded: Keys,
    rules: Sequence[Rule],
    cache: PartitionCache,
) -> tuple[str, Path | None]:
    """(key in the cache, file of a batch's rows that break a rule or have a twin); ("", None) if there are none."""
    mine, requests = held(marks.names, twins), held(marks.requests, crowded)
    if not len(mine) and not len(requests) and not any(marks.totals.values()):
        return "", None
    connection.register("crowded", pa.table({"key": requests}))
    shared = connection.sql("""
        SELECT impression_id, num_users FROM shared WHERE hash(impression_id) IN (SELECT key FROM crowded) ORDER BY ALL
    """).to_arrow_table()
    digest = hashlib.sha256(mine.tobytes())
    for column in shared.columns:
        digest.update(repr(column.to_pylist()).encode())
    key = key_of(code(), "flawed", [rule.condition for rule in rules], marks.key, digest.hexdigest())
    if not cache.holds(key):
        with cache.making() as making, connect() as other:
            (making / key).mkdir()
            as_rows(other, marks.files)
            other.register("twins", pa.table({"key": mine}))
            other.register("shared", shared)
            table = other.sql(_query(rules, marks, is_crowded=len(shared) > 0)).to_arrow_table()
            pq.write_table(table, making / key / "flawed.parquet")
            cache.put(key, making / key, {"flawed": len(table)})
    return key, cache.file(key, "flawed")


def _query(rules: Sequence[Rule], marks: Marks, is_crowded: bool) -> str:
    cases = " ".join(f"WHEN {rule.condition} THEN {number}" for number, rule in enumerate(rules))
    users = "coalesce(num_users, 1)" if is_crowded else "1::BIGINT"
    return f"""
        WITH broken AS (SELECT place, row FROM read_parquet('{marks.broken}')),
        log AS (
            SELECT rows.*, {users} AS {SEVERAL_USERS}, hash(event_id) IN (SELECT key FROM twins) AS repeats
            FROM rows {"LEFT JOIN shared USING (impression_id)" if is_crowded else ""}
        ), concerned AS (
            SELECT * FROM log WHERE repeats OR {SEVERAL_USERS} > 1
            UNION ALL SELECT log.* FROM log JOIN broken USING (place, row)
                WHERE NOT repeats AND {SEVERAL_USERS} = 1
        )
        SELECT place, row, event_id, repeats, {SEVERAL_USERS} AS num_users, hash({", ".join(IDENTITY)}) AS content,
            CASE {cases} ELSE -1 END AS rule FROM concerned ORDER BY place, row
    """


def _in_all(connection: duckdb.DuckDBPyConnection, flawed: Sequence[tuple[int, Path]]) -> Mapping[str, np.ndarray]:
    """The flawed rows of all batches together, in order."""
    if not flawed:
        none = np.zeros(0, np.int64)
        return {"differs": none.astype(bool)} | dict.fromkeys(("place", "row", "rule", "num_users", "repetition"), none)
    firsts, files = (list(each) for each in zip(*flawed, strict=True))
    connection.execute(
        "CREATE TEMP TABLE firsts AS SELECT unnest(?::VARCHAR[]) AS filename, unnest(?::BIGINT[]) AS first_place",
        [[str(file) for file in files], firsts],
    )
    return connection.sql(f"""
        SELECT place + first_place AS place, row, rule, num_users, CASE WHEN repeats AND rule < 0 THEN
            row_number() OVER same - 1 ELSE 0 END AS repetition, content <> first_value(content) OVER same AS differs
        FROM read_parquet({[str(file) for file in files]}, filename = true) JOIN firsts USING (filename)
        WINDOW same AS (PARTITION BY event_id, rule < 0 ORDER BY place + first_place, row)
        ORDER BY place + first_place, row
    """).fetchnumpy()
