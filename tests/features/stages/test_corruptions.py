"""Whatever is done to a log, every row that was read has one fate. The slow tests try 200 seeds of each source."""

import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from contracts.errors import InputError
from features.quality.record import quality_of
from features.stages import describe, histories, ingest, validate
from tests.features.corrupted_logs import CORRUPTIONS, QUOTES, SOURCES
from tests.features.raw_logs import COLUMNS, SMALL, expectations, ingest_table, limits, read, source
from tests.features.small_log import history, request

NUM_ROWS, NUM_CORRUPTED = 240, 40
NUM, AT_ONCE = int(os.environ.get("LEITMOTIF_CORRUPTIONS", "200")), 20
"""How many seeds of each source the slow tests try; so many of them in one log, as most of its cost is GX's start."""


def check(report: dict[str, Any], checked: dict[str, Any], ledger: list[dict[str, Any]], told: dict[str, Any]) -> None:
    """What ingest, validate, the ledger and the quality page say of rows is the same, and adds up."""
    assert sum(line["rows"] for line in ledger) == report["rows_read"]
    parts = ("valid", "quarantined", "duplicated")
    assert report["rows_written"] == checked["rows_in"] == sum(checked[f"rows_{part}"] for part in parts)
    assert told["ledger"] == ledger
    held = sum(each["rows"] for each in told["reasons"])
    assert held == checked["rows_quarantined"] + sum(report["dropped"].values())
    assert sum(row["rows_in"] for row in told["partitions"]) == report["rows_written"]


def check_lines(data: Path, num_rows: int) -> None:
    """Every line but the header has one fate."""
    fates = Counter(row["line"] for out in ("rejected", "provenance") for row in read(data / out))
    assert fates == Counter(range(2, num_rows + 2))


@pytest.mark.parametrize("seed", range(3))
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
    report = ingest_table(data, tmp_path / "log.csv")
    assert report["rows_read"] == len(lines)
    checked = dict(validate.run(data, limits(), expectations()))
    histories.run(data, request(), history())
    describe.run(data, source("table", tmp_path / "log.csv", COLUMNS))
    check(report, checked, read(data / "ledger"), json.loads((data / "quality" / "quality.json").read_text()))


@pytest.mark.slow
@pytest.mark.parametrize("first", range(0, NUM, AT_ONCE))
@pytest.mark.parametrize("name", list(SOURCES))
def test_the_ledger_of_every_source_adds_up(name: str, first: int, tmp_path: Path) -> None:
    without = () if name == "ebnerd" else QUOTES
    told, data = (
        SOURCES[name](range(first, min(first + AT_ONCE, NUM)), tmp_path / "log", without),
        tmp_path / "data/log",
    )
    report = dict(ingest.run(data, 1, SMALL, told.source))
    assert report["rows_read"] == told.num_rows
    if name != "ebnerd":
        check_lines(data, told.num_rows)
    checked = dict(validate.run(data, limits(), expectations()))
    histories.run(data, request(), history())
    check(report, checked, read(data / "ledger"), quality_of(data, lambda places: {}))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(NUM))
@pytest.mark.parametrize("name", ["simulator", "movielens"])
def test_a_log_with_quotes_is_read_whole_or_refused(name: str, seed: int, tmp_path: Path) -> None:
    told, data = SOURCES[name]([seed], tmp_path / "log"), tmp_path / "data/log"
    try:
        report = dict(ingest.run(data, 1, SMALL, told.source))
    except InputError:
        with pytest.raises(InputError, match=r"(log|ratings)\.csv line \d+"):
            ingest.run(data, 1, SMALL, told.source)
        assert not data.exists()
        return
    assert report["rows_read"] == told.num_rows
    check_lines(data, told.num_rows)
