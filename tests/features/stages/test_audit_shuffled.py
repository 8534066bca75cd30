"""The audit finds the structure that the simulator planted, and none if events are shuffled within each user."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from features.shifts.measure import off_theme, returns, stability
from features.stages import histories, ingest, validate
from features.stages.audit import run
from features.tables.histories import UserHistories
from features.terms.params import AuditParams, SimulatorParams
from tests.features.raw_logs import expectations, limits, source
from tests.features.small_log import history, request

WORLD = SimulatorParams(
    preference="item", num_days=10, num_users=250, num_items=300, num_themes=12, num_sessions=30, item_life_days=20.0
)
AUDIT = AuditParams(min_session_events=2, num_themes=12, num_shuffles=2, num_draws=20, seed=1)
GAP_S = 1800


@pytest.fixture(scope="module")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A simulated log, up to its histories."""
    data = tmp_path_factory.mktemp("audit") / "data" / "simulator"
    ingest.run(data, 1, WORLD, source("simulator"))
    validate.run(data, limits(), expectations())
    histories.run(data, request(), history())
    return data


def planted(data: Path) -> tuple[float, float]:
    """Hop rate and reappearance by the themes that the simulator drew, in sessions separated by half an hour."""
    truth = pq.read_table(data / "truth" / "requests.parquet")
    user = np.unique(truth["user_id"].to_numpy(zero_copy_only=False), return_inverse=True)[1]
    at = truth["occurred_at"].to_numpy().astype("datetime64[us]").astype(np.int64)
    theme = truth["theme"].to_numpy()
    order = np.lexsort((at, user))
    user, at, theme = user[order], at[order], theme[order]
    hops = pairs = back = 0
    for each in np.unique(user):
        mine = user == each
        starts = np.flatnonzero(np.r_[True, np.diff(at[mine]) > GAP_S * 1_000_000])
        most = [np.bincount(part).argmax() for part in np.split(theme[mine], starts[1:])]
        pairs += len(most) - 1
        for place in range(1, len(most)):
            if most[place] != most[place - 1]:
                hops += 1
                back += most[place] in most[:place]
    return hops / pairs, back / hops


def test_it_recovers_the_planted_hop_rate_and_reappearance(simulated: Path) -> None:
    found = run(simulated, AUDIT)
    hop_rate, return_rate = planted(simulated)
    assert found["hop_rate"] == pytest.approx(hop_rate, rel=0.1)
    assert found["return_rate"] == pytest.approx(return_rate, rel=0.1)
    assert found["state"] == "shifts"
    assert found["themes_made_of"] == "grouped categories"


def test_events_shuffled_within_each_user_have_no_session_structure(simulated: Path) -> None:
    opened = UserHistories.open(simulated / "user_histories")
    kept = np.array(opened.item_index)
    user = np.repeat(np.arange(len(opened.offsets) - 1), np.diff(opened.offsets))
    order = np.lexsort((np.random.default_rng(5).random(len(user)), user))
    np.save(simulated / "user_histories" / "item_index.npy", kept[order])
    try:
        found = run(simulated, AUDIT)
    finally:
        np.save(simulated / "user_histories" / "item_index.npy", kept)
    assert found["state"] == "none"
    assert "No session structure" in found["sentence"]
    assert abs(found["stability"]["within"] - found["shuffled"]["within"]) < 0.02


def test_a_log_without_categories_has_themes_of_what_is_consumed_together(simulated: Path) -> None:
    path = simulated / "user_histories" / "vocabulary.parquet"
    whole = pq.read_table(path)
    try:
        bare = whole.to_pylist()
        pq.write_table(type(whole).from_pylist([row | {"categories": []} for row in bare], whole.schema), path)
        found = run(simulated, AUDIT)
    finally:
        pq.write_table(whole, path)
    assert found["themes_made_of"] == "items"
    assert found["state"] == "shifts"


def slow_off_theme(user: Any, theme: Any, window: int) -> float:
    shares = []
    for at in range(len(user)):
        before = [place for place in range(at) if user[place] == user[at] and theme[place] >= 0][-window:]
        if theme[at] >= 0 and len(before) == window:
            shares.append(np.mean([theme[place] != theme[at] for place in before]))
    return float(np.mean(shares))


def test_the_off_theme_share_is_that_of_a_plain_count() -> None:
    random = np.random.default_rng(0)
    user, theme = np.repeat([0, 1, 2], [200, 90, 150]), random.integers(-1, 4, 440)
    told = {row["window"]: row for row in off_theme(user, theme)}
    assert told[50]["share"] == pytest.approx(slow_off_theme(user, theme, 50))
    assert told[1000]["share"] is None


def test_a_theme_that_returns_every_third_day_does_so_in_the_curve() -> None:
    user = np.repeat(np.arange(20), 30)
    day = np.tile(np.arange(30), 20)
    rows = returns(user, day * 86_400_000_000, day % 3, 50, np.random.default_rng(0))
    assert {row["lag_days"]: row["rate"] for row in rows} == {lag: float(lag % 3 == 0) for lag in range(1, 15)}
    assert all(row["low"] == row["high"] == row["rate"] for row in rows)


def test_stability_counts_the_next_event_in_and_across_sessions() -> None:
    user, session = np.zeros(800, int), np.repeat(np.arange(200), 4)
    theme = session % 2
    assert stability(user, session, theme) == {"within": 1.0, "between": 0.0}
