"""The tables of contracts.schema -> Dagster's column schemas, each column with its comment there; rows of an output."""

import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import NamedTuple

import dagster as dg


class Table(NamedTuple):
    """The table that an output is."""

    schema: str  # its name in contracts.schema
    files: str  # where its rows lie in the output's folder


TABLES: Mapping[str, Table] = {
    "interactions": Table("INTERACTIONS", "*.parquet"),
    "validated_interactions": Table("INTERACTIONS", "*.parquet"),
    "items": Table("ITEMS", "items.parquet"),
    "contexts": Table("CONTEXTS", "contexts.parquet"),
    "rejected": Table("REJECTED", "rejected.parquet"),
    "provenance": Table("PROVENANCE", "*.parquet"),
    "quarantine": Table("QUARANTINE", "quarantine.parquet"),
    "ledger": Table("LEDGER", "ledger.parquet"),
    "impressions": Table("IMPRESSIONS", "impressions.parquet"),
    "sessions": Table("SESSIONS", "sessions.parquet"),
    "item_counters": Table("ITEM_COUNTERS", "*.parquet"),
    "user_counters": Table("USER_COUNTERS", "*.parquet"),
    "user_item_counters": Table("USER_ITEM_COUNTERS", "*.parquet"),
    "coclicks": Table("COCLICK_CLICKS", "clicks.parquet"),
    "feature_snapshot": Table("USER_HISTORY_SNAPSHOT", "user_history.parquet"),
}
"""Output -> its table. An output of several tables shows the one that it is named after; the others are not rows."""
_TABLE = re.compile(r"^(?:(\w+) = pa\.schema|def (counters))\(")
_COUNTERS = re.compile(r"^(\w+) = counters\(")
_FROM = re.compile(r"\*(?:list\()?([A-Z_]+)")
_COLUMN = re.compile(r'^\s+\w*(?:_required|pa\.field)\("(\w+)".*?\),?(?:\s+# (.+))?$')


def column_schema(out: str) -> dg.TableSchema | None:
    """The columns of an output, for the definition of its asset; None for what is no table of contracts.schema."""
    if out not in TABLES:
        return None
    import pyarrow as pa

    from contracts import schema

    name = TABLES[out].schema
    table: pa.Schema = getattr(schema, name)
    notes = _notes()
    return dg.TableSchema(
        [
            dg.TableColumn(
                field.name,
                type=str(field.type),
                description=notes.get((name, field.name)),
                constraints=dg.TableColumnConstraints(nullable=field.nullable),
            )
            for field in table
        ]
    )


def num_rows(folder: Path, out: str) -> int | None:
    """How many rows an output has, from its files' footers; None for what is no table, or is not here."""
    files = sorted(folder.glob(TABLES[out].files)) if out in TABLES else []
    if not files:
        return None
    import pyarrow.parquet as pq

    return sum(pq.read_metadata(file).num_rows for file in files)


@cache
def _notes() -> Mapping[tuple[str, str], str]:
    """(table, column) -> the comment beside it in contracts/schema.py, or in the table that its columns come from."""
    from contracts import schema

    notes: dict[tuple[str, str], str] = {}
    table = ""
    for line in Path(schema.__file__).read_text(encoding="utf-8").splitlines():
        if begun := _TABLE.match(line):
            table = begun[1] or begun[2]
        elif counted := _COUNTERS.match(line):
            notes |= _copied(notes, "INTERACTIONS", counted[1]) | _copied(notes, "counters", counted[1])
        elif (column := _COLUMN.match(line)) and column[2]:
            notes[table, column[1]] = column[2]
        for other in _FROM.findall(line):
            notes |= _copied(notes, other, table)
    return notes


def _copied(notes: Mapping[tuple[str, str], str], source: str, target: str) -> dict[tuple[str, str], str]:
    return {(target, column): note for (table, column), note in notes.items() if table == source}
