"""A clean log of three days with planted faults -> what ingest, validate and histories made of it, row by row."""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from features.stages import histories, validate
from tests.features.raw_logs import COLUMNS, expectations, ingest_table, limits, read
from tests.features.small_log import history, request

HEADER = "user,item,at,click"
NUM_CLEAN = 120
Found = dict[tuple[str, str], list[tuple[str, int]]]
"""(stage, reason) -> (file, line) of each row, in order."""


def clean(num: int = NUM_CLEAN, day: int = 1) -> list[str]:
    """Rows of a third each on three days, no two alike."""
    return [
        f"u{n % 8},i{n % 11},2024-01-{day + n * 3 // num:02}T{n % 24:02}:{n % 60:02}:{n % 59:02}Z,{int(n % 3 == 0)}"
        for n in range(num)
    ]


def write(path: Path, rows: Sequence[str], header: str = HEADER) -> Path:
    """A file of text; its rows begin on line 2."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([header, *rows, ""]), encoding="utf-8")
    return path


def taken(root: Path, path: Path, columns: dict[str, str] | None = None, **changes: Any) -> tuple[Found, int]:
    """Run the stages up to the ledger; every row that was left out, and how many repeat another.

    The ledger must hold each row read once. changes: of the source's params, or `checked` for validate's.
    """
    data = root / "data" / "table"
    checked = changes.pop("checked", {})
    report = ingest_table(data, path, COLUMNS if columns is None else columns, **changes)
    told = validate.run(data, limits(max_id_length=256, **checked), expectations())
    histories.run(data, request(), history())
    found: Found = defaultdict(list)
    for stage, folder in (("ingest", "rejected"), ("validate", "quarantine")):
        for row in read(data / folder):
            found[stage, row["reason"]].append((row["file"], row["line"]))
    ledger = read(data / "ledger")
    assert sum(line["rows"] for line in ledger) == report["rows_read"]
    counted = {(line["stage"], line["what"]): line["rows"] for line in ledger if line["stage"] != "histories"}
    repeated = counted.pop(("validate", "duplicated"), 0)
    assert counted == {reason: len(places) for reason, places in found.items()}
    assert repeated == told["rows_duplicated"]
    return {reason: sorted(places) for reason, places in found.items()}, repeated


def lines(first: int, num: int, name: str = "log.csv") -> list[tuple[str, int]]:
    """Places of rows that follow each other."""
    return [(name, line) for line in range(first, first + num)]
