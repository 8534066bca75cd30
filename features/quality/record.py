"""The outputs of ingest, validate and histories -> one object on the quality of a log, which the quality page shows.

A refused log has no ledger yet; its rows are counted up to the stage that refused it.
"""
# pyright: reportAttributeAccessIssue=false

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from contracts.publish import write_json
from features.quality.outcomes import Outcome, as_json
from features.tables.connection import connect
from features.tables.ledger import ITEM_ROWS

EXAMPLES = 3
LONGEST = 300
"""How many characters of a row are shown."""
OUTCOMES, FIGURES = "expectations.json", "partitions.parquet"
SHOWN = ("event_id", "user_id", "item_id", "occurred_at", "label", "impression_id", "position", "role")
Originals = Callable[[Sequence[tuple[str, int]]], Mapping[tuple[str, int], str]]
"""(file, line) of rows -> their original text, for those that can be read."""


def write_profile(folder: Path, profile: pa.Table, outcomes: Sequence[Outcome]) -> None:
    """Write validate's out `profile`: the figures of every partition and the outcome of every expectation."""
    pq.write_table(profile, folder / FIGURES, compression="zstd")
    write_json(folder / OUTCOMES, {"expectations": as_json(outcomes)})


def quality_of(data: Path, originals: Originals) -> dict[str, Any]:
    """The quality of a log that passed. data: its folder, after histories."""
    ledger = pq.read_table(data / "ledger" / "ledger.parquet").to_pylist()
    return _quality(data, data, ledger, None, originals)


def refusal_of(data: Path, staging: Path, why: str, originals: Originals = lambda places: {}) -> dict[str, Any]:
    """The quality of a log that validate refuses. staging: the folder of validate's outs. why: the error message."""
    counts = pq.read_table(staging / "profile" / FIGURES)
    valid, repeated = (pc.sum(counts[f"rows_{name}"]).as_py() or 0 for name in ("valid", "duplicated"))
    ledger = [
        {"stage": stage, "what": each["reason"], "rows": each["rows"]}
        for stage, folder in (("ingest", data / "rejected"), ("validate", staging / "quarantine"))
        for each in _reasons(folder)
    ]
    ledger += [{"stage": "validate", "what": "duplicated", "rows": repeated}] if repeated else []
    ledger += [{"stage": "validate", "what": "valid", "rows": valid}] if valid else []
    return _quality(data, staging, ledger, why, originals)


def _quality(
    data: Path, outs: Path, ledger: list[dict[str, Any]], refused: str | None, originals: Originals
) -> dict[str, Any]:
    partitions = pq.read_table(outs / "profile" / FIGURES).to_pylist()
    for row in partitions:
        row |= {name: row[name] and row[name].isoformat() for name in ("first_at", "last_at")}
    reasons = held_back(data / "rejected", outs / "quarantine", originals)
    outcomes = json.loads((outs / "profile" / OUTCOMES).read_text(encoding="utf-8"))["expectations"]
    return {
        "log": data.name,
        "refused": refused,
        "rows_read": sum(line["rows"] for line in ledger),
        "ledger": ledger,
        "partitions": partitions,
        "expectations": outcomes,
        "reasons": reasons,
    }


def held_back(rejected: Path, quarantine: Path, originals: Originals) -> list[dict[str, Any]]:
    """Every reason, with its stage, number of rows, and the first of them: file, line and original text.

    A text that ingest removed on purpose ("", a forgotten user's) is not looked up; a missing one (None) is.
    """
    reasons = [
        {"stage": stage, **each}
        for stage, folder in (("ingest", rejected), ("validate", quarantine))
        for each in _reasons(folder, EXAMPLES)
    ]
    places = [(each["file"], each["line"]) for reason in reasons for each in reason["examples"] if each["raw"] is None]
    texts = originals(places)
    for each in (example for reason in reasons for example in reason["examples"]):
        if each["raw"] is None:
            each["raw"] = texts.get((each["file"], each["line"]))
    return reasons


def _reasons(folder: Path, num_examples: int = 0) -> list[dict[str, Any]]:
    """Reasons by number of rows, largest first, each with its first examples by file and line."""
    files = sorted(path for path in folder.glob("*.parquet") if path.name != ITEM_ROWS)
    if not sum(pq.read_metadata(file).num_rows for file in files):
        return []
    with connect() as connection:
        connection.execute(f"CREATE TEMP VIEW rejected AS FROM read_parquet({[str(file) for file in files]})")
        counts = connection.sql("SELECT reason, count(*) FROM rejected GROUP BY reason ORDER BY 2 DESC, 1").fetchall()
        return [{"reason": why, "rows": n, "examples": _examples(connection, why, num_examples)} for why, n in counts]


def _examples(connection: duckdb.DuckDBPyConnection, reason: str, num: int) -> list[dict[str, Any]]:
    if not num:
        return []
    query = "SELECT * FROM rejected WHERE reason = $reason ORDER BY file, line LIMIT $num"
    rows = connection.sql(query, params={"reason": reason, "num": num}).to_arrow_table()
    return [
        {
            "file": row["file"],
            "line": row["line"],
            "raw": None if row.get("raw") is None else row["raw"][:LONGEST],
            "row": {name: _text(row[name]) for name in SHOWN if row.get(name) is not None},
        }
        for row in rows.to_pylist()
    ]


def _text(value: Any) -> str:
    text = value.isoformat() if hasattr(value, "isoformat") else str(value)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."
