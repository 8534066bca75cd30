"""Whatever is done to a log of any source, each of its rows is read once and has one fate.

LEITMOTIF_CORRUPTIONS=200 tries that many logs of each source; the whole ledger, for tables, is in
stages/test_corruptions.py.
"""

import csv
import os
import shutil
from collections import Counter
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from contracts.errors import InputError
from features.sources.simulator import simulate
from features.stages import ingest
from features.terms.rules import rules
from tests.clones import real_data
from tests.features.ebnerd_bundle import BEHAVIORS, HISTORY, Row, write_bundle
from tests.features.ebnerd_bundle import ingest as ingest_bundle
from tests.features.judged_rows import flaws_of
from tests.features.raw_logs import COLUMNS, SMALL, ingest_table, limits, read, source
from tests.features.stages.test_corruptions import CORRUPTIONS

NUM = int(os.environ.get("LEITMOTIF_CORRUPTIONS", "2"))
NUM_ROWS, NUM_CORRUPTED = 150, 30
MAPPED = COLUMNS | {"impression_id": "request", "position": "position"}


@pytest.fixture(scope="module")
def simulated() -> list[list[str]]:
    """The first rows of a simulated log, as a person would export them."""
    told = simulate(SMALL, 1).events.slice(0, NUM_ROWS).to_pylist()
    names = ("user_id", "item_id", "occurred_at", "label", "impression_id", "position")
    return [[row[name].isoformat() if name == "occurred_at" else str(row[name]) for name in names] for row in told]


def corrupted(rows: list[list[str]], random: np.random.Generator) -> list[str]:
    """Lines of text, some spoilt, some twice; a quote that swallows its neighbours is no part of it."""
    names = [name for name in CORRUPTIONS if name not in ("quoted", "stray quote")]
    rows = [list(row) for row in rows]
    for place in random.choice(len(rows), NUM_CORRUPTED, replace=False):
        spoilt = CORRUPTIONS[str(random.choice(names))](rows[place][:4])
        rows[place] = [*spoilt, *rows[place][4:]] if len(spoilt) == 4 else spoilt
    rows += [rows[place] for place in random.choice(len(rows), random.integers(0, 20))]
    return [",".join(row) for row in rows]


def check(data: Path, report: dict[str, Any], lines: int) -> None:
    """Every line has one fate, and the counts of ingest and of the rules say the same."""
    fates = Counter(row["line"] for name in ("rejected", "provenance") for row in read(data / name))
    assert fates == Counter(range(2, lines + 2))
    assert report["rows_read"] == lines
    flaws = flaws_of(sorted((data / "interactions").iterdir()), rules(limits()))
    bad = sum(why is not None for why in flaws.reason)
    assert not ((flaws.repetition > 0) & np.array([why is not None for why in flaws.reason])).any()
    kept = report["rows_written"] - bad - int((flaws.repetition > 0).sum())
    names = {row["event_id"] for row in read(data / "interactions")}
    assert 0 < kept <= len(names)


@pytest.mark.parametrize("seed", range(NUM))
def test_every_line_of_a_simulated_log_has_one_fate(seed: int, simulated: list[list[str]], tmp_path: Path) -> None:
    lines = corrupted(simulated, np.random.default_rng(seed))
    (tmp_path / "log.csv").write_text("\n".join(["user,item,at,click,request,position", *lines, ""]))
    data = tmp_path / "data" / "table"
    check(data, ingest_table(data, tmp_path / "log.csv", MAPPED), len(lines))


@pytest.mark.parametrize("seed", range(NUM))
def test_every_line_of_movielens_has_one_fate(seed: int, tmp_path: Path) -> None:
    real, folder = real_data("movielens-small"), tmp_path / "log"
    folder.mkdir()
    shutil.copy(real / "movies.csv", folder)
    with (real / "ratings.csv").open(newline="") as handle:
        header, *rows = list(islice(csv.reader(handle), NUM_ROWS + 1))
    rows = [[user, item, at, rating] for user, item, rating, at in rows]  # in the order of the corruptions
    lines = corrupted(rows, np.random.default_rng(seed))
    (folder / "ratings.csv").write_text("\n".join([",".join((*header[:2], header[3], header[2])), *lines, ""]))
    data = tmp_path / "data" / "movielens"
    told = source("movielens", folder, label_threshold=4.0, partition="year")
    check(data, dict(ingest.run(data, 1, SMALL, told)), len(lines))


def spoil(row: Row, random: np.random.Generator) -> Row:
    """One fault of an impression."""
    faults: list[Row] = [
        {"user_id": None},
        {"impression_id": None},
        {"impression_time": None},
        {"article_ids_inview": []},
        {"article_ids_inview": None},
        {"article_ids_clicked": None},
        {"article_ids_clicked": [999_999_999]},
        {"article_ids_inview": [*row["article_ids_inview"], row["article_ids_inview"][0], None]},
    ]
    return row | faults[random.integers(len(faults))]


def num_rows(impression: Row) -> int:
    """Its candidates; one, where it cannot be taken apart."""
    shown, clicked = impression["article_ids_inview"], impression["article_ids_clicked"]
    if not shown or clicked is None or impression["impression_time"] is None or impression["impression_id"] is None:
        return 1
    return len(shown) if set(clicked) <= set(shown) else 1


@pytest.mark.parametrize("seed", range(NUM))
def test_every_row_of_ebnerd_has_one_fate(seed: int, tmp_path: Path) -> None:
    random, real = np.random.default_rng(seed), real_data("ebnerd-demo")
    behaviors = next(pq.ParquetFile(real / "train" / "behaviors.parquet").iter_batches(40, columns=BEHAVIORS.names))
    histories = next(pq.ParquetFile(real / "train" / "history.parquet").iter_batches(6, columns=HISTORY.names))
    shown = [spoil(row, random) if random.random() < 0.4 else row for row in behaviors.to_pylist()]
    shown += [shown[place] for place in random.choice(len(shown), 3)]
    clicked = [row | {name: row[name][:30] for name in HISTORY.names[1:]} for row in histories.to_pylist()]
    clicked = [
        row | {"article_id_fixed": row["article_id_fixed"][1:]} if random.random() < 0.3 else row for row in clicked
    ]
    folder = write_bundle(tmp_path / "log", tuple(shown[:20]), tuple(shown[20:]), tuple(clicked), tuple(clicked[:2]))
    told = [*clicked, *clicked[:2]]
    whole = [row for row in told if len(row["article_id_fixed"]) == len(row["impression_time_fixed"])]
    in_histories = sum(len(row["article_id_fixed"]) for row in whole) + len(told) - len(whole)
    try:
        report = ingest_bundle(tmp_path / "data" / "ebnerd", folder)
    except InputError as error:
        raise AssertionError(f"no fault of a row refuses the log: {error}") from error
    assert report["rows_read"] == sum(map(num_rows, shown)) + in_histories
