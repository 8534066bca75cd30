"""A seed -> params of the features and a small log with a crawler in it, to hold the two sides to each other."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np

from features.online.parity import Parity, replay_from, replay_requests
from features.online.replay import DELAY, Replay, replaying
from features.online.snapshot import write_snapshot
from features.stages import histories
from features.stages.materialize import parity_spec
from features.stages.statistics import run as run_statistics
from features.tables.histories import UserHistories
from features.terms.params import HistoryParams, StatisticsParams
from tests.features.small_log import Row, history, request, row, statistics, validate, write_log

DAY_S = 86_400
NUM_REQUESTS = 60


@dataclass(frozen=True)
class Drawn:
    """What one seed gives."""

    rows: list[Row]
    history: HistoryParams
    statistics: StatisticsParams
    block_size: int
    share: float  # of the requests, the latest: these are replayed
    delay_s: float


def draw(seed: int) -> Drawn:
    """Params of every kind, and a log of a few hundred rows around a midnight. Small lengths: all are passed.

    What is known late: nothing of two logs in five, clicks of one, whole rows of one, some of both of one.
    """
    random = np.random.default_rng(seed)

    def one_of(*choices: Any) -> Any:
        return choices[random.integers(len(choices))]

    delay_s = one_of(0, 0, 20, 90)
    max_length = int(random.integers(12, 40))
    of_history = history(
        labels=one_of("clicked", "clicked", "all"),
        lag_s=max(delay_s, one_of(0, 0, 1, 45, 130.5)),
        session_gap_s=one_of(40, 100, 1800, 10_000),
        session_max_s=one_of(None, 90, 600, 3_600, 5_000.5, DAY_S),
        retention_s=one_of(None, None, 4_000),
        max_length=max_length,
    )
    of_statistics = statistics(
        bucket_s=one_of(0, 0, 7, 60, 60, 900, 3_600, 100_000),
        windows_s=one_of((60,), (60, 3_600), (300, 7_200, DAY_S)),
        shows_lag_s=one_of(0, 10, 60),
        clicks_lag_s=max(delay_s, one_of(0, 30, 300)),
        user_lag_s=max(delay_s, one_of(0, 10, 60)),
        coclick_rank=one_of(0, 0, 0, 4),
    )
    rows = _known_late(random, _log(random, max_length), *one_of((0, 0), (0, 0), (0.6, 0), (0, 0.4), (0.5, 0.3)))
    return Drawn(rows, of_history, of_statistics, one_of(1, 4, 8), one_of(0.2, 0.5, 0.8), delay_s)


def _log(random: np.random.Generator, max_length: int) -> list[Row]:
    """Requests of 3 items, loose clicks, events that only extend histories; u0 clicks once a minute, for long."""
    begins, ends = DAY_S - 4_000, DAY_S + 4_000
    rows: list[Row] = []
    for number in range(40):
        user, at = f"u{random.integers(1, 6)}", int(random.integers(begins, ends))
        session = [None, f"s{random.integers(3)}"][random.integers(2)]
        for position, item in enumerate(random.permutation(12)[:3]):
            clicked = float(random.random() < 0.4)
            named = {"impression_id": f"r{number}", "position": position, "session_id": session}
            rows.append(row(user, f"i{item:02}", at, clicked, **named))
    for _ in range(40):
        user, at = f"u{random.integers(1, 6)}", random.integers(begins * 10, ends * 10) / 10
        role = "history" if random.random() < 0.2 else "impression"
        rows.append(row(user, f"i{random.integers(12):02}", at, float(random.random() < 0.7), role=role))
    num_clicks = min(max_length + int(random.integers(20, 90)), (ends - begins) // 60)
    for number in range(num_clicks):
        rows.append(row("u0", f"i{random.integers(12):02}", ends - 60 * number))
    return [each | {"event_id": f"e{number:04}"} for number, each in enumerate(rows)]


def _known_late(random: np.random.Generator, rows: list[Row], clicks: float, whole: float) -> list[Row]:
    """clicks: the share of rows whose click was known some time after; whole: of those that came late themselves."""
    made = []
    for each in rows:
        at, late = each["occurred_at"], {}
        if random.random() < whole:
            late["arrived_at"] = at + timedelta(seconds=float(random.choice([-5, 0, 0.5, 60, 2_000, 90_000])))
        if random.random() < clicks:
            late["known_at"] = at + timedelta(seconds=float(random.choice([-5, 0, 1, 30, 600, 5_000, 90_000])))
        if "arrived_at" in late and random.random() < 0.5:
            late["known_at"] = late["arrived_at"]  # as an event that came with its click
        made.append(each | late)
    return made


def build(data: Path, drawn: Drawn) -> Mapping[str, Any]:
    """The stages' own tables of a drawn log, by day, and its snapshot; returns what snapshot.json holds."""
    write_log(data, drawn.rows, by_day=True)
    histories.run(data, request(block_size=drawn.block_size), drawn.history)
    run_statistics(data, drawn.statistics)
    sections = {"statistics": drawn.statistics, "validate": validate()}
    told = {name: section.model_dump(mode="json") for name, section in sections.items()}
    settings = drawn.history.model_dump(mode="json") | told | {DELAY: drawn.delay_s}
    (data / "feature_snapshot").mkdir()
    stored = UserHistories.open(data / "user_histories")
    return write_snapshot(data, stored, drawn.history.max_length, settings, data / "feature_snapshot")


def replayed(
    data: Path,
    drawn: Drawn,
    snapshot: Mapping[str, Any],
    scratch: Path,
    plant: Callable[[Replay], None] | None = None,
) -> tuple[Parity, int, int]:
    """(what differs, requests left out, events fed) of a replay of requests of the latest share.

    plant: does a fault to the replay before it begins.
    """
    spec, from_us = parity_spec(drawn.history, drawn.statistics), replay_from(data, drawn.share)
    with replaying(data, snapshot, from_us, scratch) as replay:
        if plant is not None:
            plant(replay)
        compared, left_out = replay_requests(replay, data, spec, from_us, NUM_REQUESTS)
        return compared, left_out, replay.fed
