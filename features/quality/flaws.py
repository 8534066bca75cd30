"""Partitions of interactions and the rules -> which rows are bad and why, and which repeat another; one DuckDB pass."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa

from features.tables.connection import connect
from features.terms.event_id import IDENTITY
from features.terms.rules import REPEATED, REPETITION, SEVERAL_USERS, Rule

COLUMNS = ("partition", "row", "reason", "repetition", "num_users")


@dataclass(frozen=True)
class Flaws:
    """Rows that are not simply valid, sorted by (partition, row)."""

    partition: np.ndarray  # place of the row's file among the files
    row: np.ndarray  # place of the row in its file
    reason: np.ndarray  # None where the row is sound and shares its event_id with another
    repetition: np.ndarray  # 0 for the first sound row of an event_id; the others are duplicates
    num_users: np.ndarray  # of the row's impression
    num_rows_by_rule: Mapping[str, int]  # a row may break several rules
    num_differing: int  # of the duplicates, those that say something else than the row whose event_id they have

    def of(self, partition: int) -> slice:
        """Where one partition's rows are."""
        start, end = np.searchsorted(self.partition, [partition, partition + 1])
        return slice(int(start), int(end))

    def only(self, first: int, last: int) -> "Flaws":
        """Those of the partitions first to last; the totals stay."""
        here = slice(self.of(first).start, self.of(last).stop)
        columns = {name: getattr(self, name)[here] for name in COLUMNS}
        return replace(self, **columns)

    def judged(self, table: pa.Table, partition: int) -> pa.Table:
        """A partition's interactions with the two columns that one row alone cannot say."""
        here = self.of(partition)
        repetition, num_users = np.zeros(len(table), np.int64), np.ones(len(table), np.int64)
        repetition[self.row[here]] = self.repetition[here]
        num_users[self.row[here]] = self.num_users[here]
        return table.append_column(REPETITION, pa.array(repetition)).append_column(SEVERAL_USERS, pa.array(num_users))


def find_flaws(files: Sequence[Path], rules: Sequence[Rule]) -> Flaws:
    """Judge every row of all files. A row's reason is the first rule that it breaks."""
    with connect() as connection:
        _prepare(connection, files, rules)
        found = connection.sql(f"""
            SELECT place, row, rule, {SEVERAL_USERS} AS num_users, CASE WHEN repeats AND rule < 0 THEN
                row_number() OVER same - 1 ELSE 0 END AS repetition, said <> first_value(said) OVER same AS differs
            FROM flawed WINDOW same AS (PARTITION BY event_id, rule < 0 ORDER BY place, row) ORDER BY place, row
        """).fetchnumpy()
        counts = ", ".join(f"count(*) FILTER ({rule.condition})" for rule in rules)
        totals = connection.sql(f"SELECT {counts} FROM log").fetchall()[0]
    reasons = np.array([*(rule.reason for rule in rules), None], dtype=object)
    num_rows = dict(zip((rule.reason for rule in rules), totals, strict=True))
    is_repeated = found["repetition"] > 0
    num_rows[REPEATED] = int(is_repeated.sum())
    num_differing = int((is_repeated & found["differs"]).sum())
    where = (found["place"], found["row"], reasons[found["rule"]])
    return Flaws(*where, found["repetition"], found["num_users"], num_rows, num_differing)


def _prepare(connection: duckdb.DuckDBPyConnection, files: Sequence[Path], rules: Sequence[Rule]) -> None:
    """log: every row, its place, what other rows say about it. flawed: those with a broken rule or a twin.

    A twin is looked for by the hash of its name, a quarter as long; what only shares a hash is a repetition of nothing.
    """
    cases = " ".join(f"WHEN {rule.condition} THEN {number}" for number, rule in enumerate(rules))
    connection.execute(
        "CREATE TEMP TABLE places AS SELECT unnest(?::VARCHAR[]) AS filename, unnest(range(?)) AS place",
        [[str(file) for file in files], len(files)],
    )
    connection.execute(f"""
        CREATE TEMP VIEW read AS SELECT *, file_row_number AS row
        FROM read_parquet({[str(file) for file in files]}, filename = true, file_row_number = true)
        JOIN places USING (filename);
        CREATE TEMP TABLE shared AS SELECT impression_id, count(DISTINCT user_id) AS num_users FROM read
        WHERE impression_id IN (SELECT impression_id FROM read WHERE impression_id IS NOT NULL
            GROUP BY impression_id HAVING min(user_id) <> max(user_id)) GROUP BY impression_id;
        CREATE TEMP TABLE repeated AS SELECT hash(event_id) AS key FROM read GROUP BY key HAVING count(*) > 1;
        CREATE TEMP VIEW log AS SELECT read.*, coalesce(num_users, 1) AS {SEVERAL_USERS},
            hash(event_id) IN (SELECT key FROM repeated) AS repeats
        FROM read LEFT JOIN shared USING (impression_id);
        CREATE TEMP TABLE flawed AS SELECT place, row, event_id, repeats, {SEVERAL_USERS},
            hash({", ".join(IDENTITY)}) AS said,
            CASE {cases} ELSE -1 END AS rule FROM log WHERE repeats OR rule >= 0;
    """)
