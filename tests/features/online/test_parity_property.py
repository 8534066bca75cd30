"""For any params, a log that is fed event by event reads at every request like its tables, a crawler included.

LEITMOTIF_PARITY_SETS: how many random sets of params are drawn; 12 where it is not set, of which 4 are no slow tests.
"""

import os
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from features.online.replay import Replay
from tests.features.random_params import build, draw, replayed
from tests.features.small_log import history, statistics

NUM_SETS = int(os.environ.get("LEITMOTIF_PARITY_SETS", "12"))
NUM_QUICK = 4
SEEDS = [pytest.param(seed, marks=[pytest.mark.slow] * (seed >= NUM_QUICK)) for seed in range(NUM_SETS)]


@pytest.mark.parametrize("seed", SEEDS)
def test_online_reads_what_training_reads_whatever_the_params(seed: int, tmp_path: Path) -> None:
    drawn = draw(seed)
    data = tmp_path / "data" / "log"
    compared, left_out, fed = replayed(data, drawn, build(data, drawn), tmp_path / "scratch")
    assert compared.first == []
    assert compared.checked >= 5
    assert left_out <= 20
    assert fed > 20


def without_buckets(replay: Replay) -> None:
    """Live events as they came, where the log is counted by buckets."""
    replay.store.live._bucket_us = 0


def with_the_future(replay: Replay) -> None:
    """A feed with the outcome in the show itself, as if it had been known then: a former bug of the replay."""
    feed = replay.feed
    known = feed.events["known_at"]
    feed.times = np.minimum(feed.times, feed.occurred_at)
    order = np.argsort(feed.times, kind="stable")
    place = feed.events.column_names.index("known_at")
    feed.events = feed.events.set_column(place, "known_at", pa.nulls(len(known), known.type)).take(pa.array(order))
    feed.times, feed.occurred_at = feed.times[order], feed.occurred_at[order]
    feed.in_history = feed.in_history[order]


def with_longer_cells(replay: Replay) -> None:
    """Sessions that are cut on another grid than the log's."""
    view = replay.store.history_view
    view.tags = view.tags | {"session_max_s": "1000000"}


@pytest.mark.parametrize(
    ("plant", "field"),
    [(without_buckets, "user_"), (with_the_future, "_clicks_"), (with_longer_cells, "session")],
)
def test_a_fault_that_is_planted_is_found_and_named(
    plant: Callable[[Replay], None], field: str, tmp_path: Path
) -> None:
    drawn = draw(4)
    known = [
        each | {"known_at": each["occurred_at"] + timedelta(seconds=1_000), "arrived_at": None} for each in drawn.rows
    ]
    drawn = replace(
        drawn,
        rows=known,
        history=history(session_max_s=600, session_gap_s=1_800),
        statistics=statistics(bucket_s=60),
        share=0.5,
        delay_s=0,
    )
    data = tmp_path / "data" / "log"
    made = build(data, drawn)
    assert replayed(data, drawn, made, tmp_path / "sound")[0].mismatches == 0
    compared, _, _ = replayed(data, drawn, made, tmp_path / "scratch", plant)
    assert compared.mismatches > 5
    assert any(field in each["field"] for each in compared.first)
