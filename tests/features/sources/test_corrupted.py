"""Whatever is done to a log of any source, each of its rows is read once and has one fate.

The whole ledger is in stages/test_corruptions.py, and there are more seeds.
"""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from contracts.errors import InputError
from features.stages import ingest
from features.terms.rules import rules
from tests.features.corrupted_logs import QUOTES, SOURCES
from tests.features.judged_rows import flaws_of
from tests.features.raw_logs import SMALL, limits, read


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("name", ["simulator", "movielens"])
def test_every_line_has_one_fate(name: str, seed: int, tmp_path: Path) -> None:
    told, data = SOURCES[name]([seed], tmp_path / "log", QUOTES), tmp_path / "data" / name
    report = dict(ingest.run(data, 1, SMALL, told.source))
    fates = Counter(row["line"] for out in ("rejected", "provenance") for row in read(data / out))
    assert fates == Counter(range(2, told.num_rows + 2))
    assert report["rows_read"] == told.num_rows
    flaws = flaws_of(sorted((data / "interactions").iterdir()), rules(limits()))
    bad = sum(why is not None for why in flaws.reason)
    assert not ((flaws.repetition > 0) & np.array([why is not None for why in flaws.reason])).any()
    kept = report["rows_written"] - bad - int((flaws.repetition > 0).sum())
    names = {row["event_id"] for row in read(data / "interactions")}
    assert 0 < kept <= len(names)


@pytest.mark.parametrize("seed", range(2))
def test_every_row_of_ebnerd_has_one_fate(seed: int, tmp_path: Path) -> None:
    told, data = SOURCES["ebnerd"]([seed], tmp_path / "log"), tmp_path / "data" / "ebnerd"
    try:
        report = dict(ingest.run(data, 1, SMALL, told.source))
    except InputError as error:
        raise AssertionError(f"no fault of a row refuses the log: {error}") from error
    assert len(read(data / "provenance")) + sum(report["dropped"].values()) == report["rows_read"] == told.num_rows
