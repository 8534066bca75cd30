"""Whatever is done to a log, every row that was read has one fate. LEITMOTIF_CORRUPTIONS=200 tries that many."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from contracts.errors import InputError
from features.stages import describe, histories, validate
from tests.features.raw_logs import COLUMNS, expectations, ingest_table, limits, read, source
from tests.features.small_log import history, request

NUM = int(os.environ.get("LEITMOTIF_CORRUPTIONS", "3"))
NUM_ROWS, NUM_CORRUPTED = 240, 40
Fields = list[str]
CORRUPTIONS: dict[str, Callable[[Fields], Fields]] = {
    "no user": lambda row: ["", *row[1:]],
    "no item": lambda row: [row[0], "", *row[2:]],
    "no time": lambda row: [*row[:2], "", row[3]],
    "no label": lambda row: [*row[:3], ""],
    "bad time": lambda row: [*row[:2], "soon", row[3]],
    "early": lambda row: [*row[:2], "1970-01-01T00:00:00Z", row[3]],
    "late": lambda row: [*row[:2], "2999-01-01T00:00:00Z", row[3]],
    "milliseconds": lambda row: [*row[:2], "1704067200000", row[3]],
    "nan": lambda row: [*row[:3], "nan"],
    "negative": lambda row: [*row[:3], "-1"],
    "huge": lambda row: ["9" * 400, *row[1:]],
    "control": lambda row: [row[0] + "\x07", *row[1:]],
    "null word": lambda row: ["NULL", *row[1:]],
    "too few": lambda row: row[:2],
    "too many": lambda row: [*row, "more"],
    "quoted": lambda row: [f'"{row[0]},"', *row[1:]],
    "stray quote": lambda row: [row[0] + '"', *row[1:]],
    "byte order mark": lambda row: ["\ufeff" + row[0], *row[1:]],
}


@pytest.mark.parametrize("seed", range(NUM))
def test_the_ledger_adds_up_and_the_page_has_it(seed: int, tmp_path: Path) -> None:
    random = np.random.default_rng(seed)
    at = [f"2024-01-{1 + n % 3:02}T{n % 24:02}:00:{n % 60:02}Z" for n in range(NUM_ROWS)]
    rows = [[f"u{n % 9}", f"i{n % 13}", at[n], str(n % 2)] for n in range(NUM_ROWS)]
    names = list(random.choice(list(CORRUPTIONS), random.integers(1, len(CORRUPTIONS)), replace=False))
    for place in random.choice(NUM_ROWS, NUM_CORRUPTED, replace=False):
        rows[place] = CORRUPTIONS[str(random.choice(names))](rows[place])
    rows += [rows[place] for place in random.choice(NUM_ROWS, random.integers(0, 30))]
    lines = [",".join(row) for row in rows]
    (tmp_path / "log.csv").write_text("\n".join(["user,item,at,click", *lines, ""]), encoding="utf-8")
    data = tmp_path / "data" / "table"
    try:
        report = ingest_table(data, tmp_path / "log.csv")
    except InputError:  # a quote that swallows the rest of the file is refused, and its line named
        with pytest.raises(InputError, match=r"log\.csv line \d+"):
            ingest_table(data, tmp_path / "log.csv")
        assert not data.exists()
        return
    checked = validate.run(data, limits(), expectations())
    histories.run(data, request(), history())
    describe.run(data, source("table", tmp_path / "log.csv", COLUMNS))
    ledger = read(data / "ledger")
    assert sum(line["rows"] for line in ledger) == report["rows_read"] == len(lines)
    parts = ("valid", "quarantined", "duplicated")
    assert report["rows_written"] == checked["rows_in"] == sum(checked[f"rows_{part}"] for part in parts)
    told = json.loads((data / "quality" / "quality.json").read_text())
    assert told["ledger"] == ledger
    held = sum(each["rows"] for each in told["reasons"])
    assert held == checked["rows_quarantined"] + sum(report["dropped"].values())
    assert sum(row["rows_in"] for row in told["partitions"]) == report["rows_written"]
