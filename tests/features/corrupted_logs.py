"""A seed -> a small log of each source with random faults, and how many rows it holds as a person counts them."""

import csv
import shutil
from collections.abc import Callable, Sequence
from functools import cache
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow.parquet as pq

from features.sources.simulator import simulate
from features.terms.params import SourceParams
from tests.clones import real_data
from tests.features.ebnerd_bundle import BEHAVIORS, HISTORY, Row, write_bundle
from tests.features.raw_logs import COLUMNS, SMALL, source

NUM_ROWS, NUM_CORRUPTED = 150, 30
MAPPED = COLUMNS | {"impression_id": "request", "position": "position"}
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
"""Of (user, item, time, label)."""
QUOTES = ("quoted", "stray quote")
"""A quote may swallow its neighbours; such a log is refused."""


class Corrupted(NamedTuple):
    """A log as a person hands it over."""

    source: SourceParams
    num_rows: int  # read of it


def corrupted(blocks: Sequence[list[Fields]], seeds: Sequence[int], without: Sequence[str] = ()) -> list[str]:
    """Lines of text: of each seed a block, some of it spoilt by some of the CORRUPTIONS, some twice.

    Rows begin with user, item, time, label.
    """
    lines, known = [], [name for name in CORRUPTIONS if name not in without]
    for block, seed in zip(blocks, seeds, strict=True):
        random = np.random.default_rng(seed)
        names = list(random.choice(known, random.integers(1, len(known) + 1), replace=False))
        rows = [list(row) for row in block]
        for place in random.choice(len(rows), NUM_CORRUPTED, replace=False):
            spoilt = CORRUPTIONS[str(random.choice(names))](rows[place][:4])
            rows[place] = [*spoilt, *rows[place][4:]] if len(spoilt) == 4 else spoilt
        rows += [rows[place] for place in random.choice(len(rows), random.integers(0, 20))]
        lines += [",".join(row) for row in rows]
    return lines


def simulator(seeds: Sequence[int], folder: Path, without: Sequence[str] = ()) -> Corrupted:
    """A simulated log, as a person would export it."""
    told = _simulated()
    blocks = [told[place * NUM_ROWS : (place + 1) * NUM_ROWS] for place in range(len(seeds))]
    lines = corrupted(blocks, seeds, without)
    folder.mkdir(parents=True)
    (folder / "log.csv").write_text("\n".join(["user,item,at,click,request,position", *lines, ""]), encoding="utf-8")
    return Corrupted(source("table", folder / "log.csv", MAPPED), len(lines))


def movielens(seeds: Sequence[int], folder: Path, without: Sequence[str] = ()) -> Corrupted:
    """Ratings of MovieLens small with all its movies."""
    real = real_data("movielens-small")
    told = _rated(real, len(seeds))
    lines = corrupted([told[place :: len(seeds)] for place in range(len(seeds))], seeds, without)
    folder.mkdir(parents=True)
    shutil.copy(real / "movies.csv", folder)
    (folder / "ratings.csv").write_text("\n".join(["userId,movieId,timestamp,rating", *lines, ""]), encoding="utf-8")
    return Corrupted(source("movielens", folder, label_threshold=4.0, partition="year"), len(lines))


def ebnerd(seeds: Sequence[int], folder: Path, without: Sequence[str] = ()) -> Corrupted:
    """Impressions and histories of EB-NeRD demo, of which some cannot be taken apart or lack something."""
    assert not without, "EB-NeRD is Parquet: none of the CORRUPTIONS is made in it"
    shown: list[Row] = []
    clicked: list[Row] = []
    for (behaviors, histories), seed in zip(_read(len(seeds)), seeds, strict=True):
        random = np.random.default_rng(seed)
        block = [_spoilt(row, random) if random.random() < 0.4 else row for row in behaviors]
        shown += block + [block[place] for place in random.choice(len(block), 3)]
        clicked += [_cut(row) if random.random() < 0.3 else row for row in histories]
    half = len(shown) // 2
    write_bundle(folder, tuple(shown[:half]), tuple(shown[half:]), tuple(clicked), tuple(clicked[:2]))
    told = [*clicked, *clicked[:2]]
    whole = [row for row in told if len(row["article_id_fixed"]) == len(row["impression_time_fixed"])]
    in_histories = sum(len(row["article_id_fixed"]) for row in whole) + len(told) - len(whole)
    return Corrupted(source("ebnerd", folder), sum(map(_num_rows, shown)) + in_histories)


SOURCES: dict[str, Callable[..., Corrupted]] = {"simulator": simulator, "movielens": movielens, "ebnerd": ebnerd}
"""seeds, one a block of the log; folder; without: CORRUPTIONS that are not made."""


@cache
def _simulated() -> list[Fields]:
    names = ("user_id", "item_id", "occurred_at", "label", "impression_id", "position")
    return [
        [row[name].isoformat() if name == "occurred_at" else str(row[name]) for name in names]
        for row in simulate(SMALL, 1).events.select(names).to_pylist()
    ]


@cache
def _rated(real: Path, num_blocks: int) -> list[Fields]:
    """The first users' ratings, one in seven: of one block's rows many users have one."""
    with (real / "ratings.csv").open(newline="") as handle:
        _, *rows = list(islice(csv.reader(handle), 7 * NUM_ROWS * num_blocks + 1))
    return [[user, item, at, rating] for user, item, rating, at in rows[::7]]


@cache
def _read(num_blocks: int) -> list[tuple[list[Row], list[Row]]]:
    real = real_data("ebnerd-demo") / "train"
    behaviors = pq.ParquetFile(real / "behaviors.parquet").iter_batches(40, columns=BEHAVIORS.names)
    histories = pq.ParquetFile(real / "history.parquet").iter_batches(6, columns=HISTORY.names)
    return [
        (
            next(behaviors).to_pylist(),
            [row | {name: row[name][:30] for name in HISTORY.names[1:]} for row in next(histories).to_pylist()],
        )
        for _ in range(num_blocks)
    ]


def _cut(row: Row) -> Row:
    """A history whose lists differ in length."""
    return row | {"article_id_fixed": row["article_id_fixed"][1:]}


def _spoilt(row: Row, random: np.random.Generator) -> Row:
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


def _num_rows(impression: Row) -> int:
    """Its candidates; one, where it cannot be taken apart."""
    shown, clicked = impression["article_ids_inview"], impression["article_ids_clicked"]
    if not shown or clicked is None or impression["impression_time"] is None or impression["impression_id"] is None:
        return 1
    return len(shown) if set(clicked) <= set(shown) else 1
