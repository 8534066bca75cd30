"""The ledger: rows rejected or quarantined by ingest and validate and rows used by histories; they sum to rows read."""

from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from contracts.schema import LEDGER

ROWS = "rejected.parquet"
ITEM_ROWS = "items.parquet"
"""In rejected/: rows of the items file. They are not events and not part of the ledger."""
JOINED = "joined to the row of its item in its request"
"""Reason of a row whose show and click were logged apart: its label is in the other row, so nothing of it is lost."""
OUTCOME_JOINED = "outcome joined to its show"
"""The same of a live event."""


def assemble(data: Path, fates: Mapping[str, int]) -> pa.Table:
    """The ledger (contracts.schema.LEDGER). fates: number of valid rows by what histories did with them.

    Raises ValueError if these are not all valid rows: a row that is lost must not pass for a repeated one.
    """
    rejected, held_back = _by_reason(data / "rejected"), _by_reason(data / "quarantine")
    num_rows, num_valid = (_num_rows(data / name) for name in ("interactions", "validated_interactions"))
    repeated = num_rows - sum(held_back.values()) - num_valid
    if sum(fates.values()) != num_valid or repeated < 0:
        raise ValueError(
            f"{num_rows:,} interactions are {num_valid:,} valid rows, {sum(held_back.values()):,} held back and "
            f"{repeated:,} repeated ones, and histories has a fate for {sum(fates.values()):,} valid rows: the ledger "
            "does not add up. `dvc repro --force validate histories` makes both again"
        )
    lines = [("ingest", what, rows) for what, rows in sorted(rejected.items())]
    lines += [("validate", what, rows) for what, rows in sorted(held_back.items())]
    lines += [("validate", "duplicated", repeated)] if repeated else []
    lines += [("histories", what, rows) for what, rows in sorted(fates.items()) if rows]
    stages, whats, rows = zip(*lines, strict=True)
    return pa.table([pa.array(stages), pa.array(whats), pa.array(rows, pa.int64())], schema=LEDGER)


def _num_rows(folder: Path) -> int:
    return sum(pq.read_metadata(file).num_rows for file in folder.glob("*.parquet"))


def _by_reason(folder: Path) -> dict[str, int]:
    files = sorted(path for path in folder.glob("*.parquet") if path.name != ITEM_ROWS)
    reasons = pa.concat_tables([pq.ParquetFile(file).read(columns=["reason"]) for file in files])["reason"]
    return {entry["values"]: entry["counts"] for entry in reasons.value_counts().to_pylist()}
