"""A seed -> params of the features and a small log with a crawler in it, to hold the two sides to each other."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from features import histories
from features.history_reader import UserHistories
from features.materialize import parity_spec
from features.params import HistoryParams, StatisticsParams
from features.parity import Comparison, replay_from, replay_requests
from features.replay import replaying
from features.snapshot import write_snapshot
from features.statistics import run as run_statistics
from tests.features.small_log import Row, history, request, row, statistics, validate, write_log

DAY_S = 86_400


@dataclass(frozen=True)
class Drawn:
    """What one seed gives."""

    rows: list[Row]
    history: HistoryParams
    statistics: StatisticsParams
    block_size: int
    share: float  # of the requests, the latest: these are replayed


def draw(seed: int) -> Drawn:
    """Params of every kind, and a log of a few hundred rows around a midnight. Small lengths, so that all are passed."""
    random = np.random.default_rng(seed)

    def one_of(*choices: Any) -> Any:
        return choices[random.integers(len(choices))]

    max_length = int(random.integers(12, 40))
    of_history = history(
        labels=one_of("clicked", "clicked", "all"),
        lag_s=one_of(0, 0, 1, 45, 130.5),
        session_gap_s=one_of(40, 100, 1800, 10_000),
        session_max_s=one_of(None, 90, 600, 3_600, 5_000.5, DAY_S),
        retention_s=one_of(None, None, 4_000),
        max_length=max_length,
    )
    of_statistics = statistics(
        bucket_s=one_of(0, 0, 7, 60, 60, 900, 3_600, 100_000),
        windows_s=one_of((60,), (60, 3_600), (300, 7_200, DAY_S)),
        shows_lag_s=one_of(0, 10, 60),
        clicks_lag_s=one_of(0, 30, 300),
        user_lag_s=one_of(0, 10, 60),
        coclick_rank=one_of(0, 0, 0, 4),
    )
    return Drawn(_log(random, max_length), of_history, of_statistics, one_of(1, 4, 8), one_of(0.2, 0.5, 0.8))


def _log(random: np.random.Generator, max_length: int) -> list[Row]:
    """Requests of 3 items, loose clicks, events that only extend histories; u0 clicks once a minute, longer than kept."""
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


def build(data: Path, drawn: Drawn) -> Mapping[str, Any]:
    """The stages' own tables of a drawn log, by day, and its snapshot; returns what snapshot.json holds."""
    write_log(data, drawn.rows, by_day=True)
    histories.run(data, request(block_size=drawn.block_size), drawn.history)
    run_statistics(data, drawn.statistics)
    sections = {"statistics": drawn.statistics, "validate": validate()}
    told = {name: section.model_dump(mode="json") for name, section in sections.items()}
    settings = drawn.history.model_dump(mode="json") | told
    (data / "feature_snapshot").mkdir()
    stored = UserHistories.open(data / "user_histories")
    return write_snapshot(data, stored, drawn.history.max_length, settings, data / "feature_snapshot")


def replayed(data: Path, drawn: Drawn, snapshot: Mapping[str, Any], scratch: Path) -> tuple[Comparison, int, int]:
    """(what differs, requests left out, events fed) of a replay of every request of the latest share."""
    spec, from_us = parity_spec(drawn.history, drawn.statistics), replay_from(data, drawn.share)
    with replaying(data, snapshot, from_us, scratch) as replay:
        compared, left_out = replay_requests(replay, data, spec, from_us, 10_000)
        return compared, left_out, replay.fed
