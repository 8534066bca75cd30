"""The simulated logs follow MODEL.md's appendix in a steady state, and their bytes never change."""

import hashlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from ruamel.yaml import YAML

from contracts.errors import InputError
from features.sources.log import Log
from features.sources.simulator import simulate
from features.terms.params import SimulatorParams
from tests.features.raw_logs import SMALL

ROOT = Path(__file__).parents[3]


def content(log: Log) -> str:
    """A hash of the values, whatever file format they are written in."""
    total = hashlib.sha256()
    for table in (log.events, log.items, *(log.truth[name] for name in sorted(log.truth))):
        for column in table.columns:
            total.update(str(column.combine_chunks().to_pylist()).encode())
    return total.hexdigest()[:16]


def session_log(params: SimulatorParams) -> SimulatorParams:
    return params.model_copy(update={"preference": "session"})


def codes(log: Log, column: str) -> np.ndarray:
    return log.events[column].combine_chunks().dictionary_encode().indices.to_numpy()


@pytest.fixture(scope="module")
def full() -> Log:
    """The log of the first `make run` in a new clone."""
    shipped = YAML(typ="safe").load(ROOT / "presets" / "simulator.yaml")
    return simulate(SimulatorParams.model_validate(shipped["simulator"]), seed=1)


def test_log_a_is_frozen() -> None:
    assert content(simulate(SMALL, seed=1)) == "b6476ee78950766d"


def test_log_b_is_frozen() -> None:
    assert content(simulate(session_log(SMALL), seed=1)) == "21c9d8de04ef3fd5"


def test_the_full_log_a_is_frozen(full: Log) -> None:
    logit = full.truth["logits"]["logit"].to_numpy()
    at = full.events["occurred_at"].cast(pa.int64()).to_numpy()
    label = full.events["label"].to_numpy()
    total = hashlib.sha256(logit.tobytes() + at.tobytes() + label.tobytes())
    assert total.hexdigest()[:16] == "6cc6db561c529cf5"


def test_another_seed_gives_another_log() -> None:
    assert content(simulate(SMALL, seed=1)) != content(simulate(SMALL, seed=2))


def test_the_full_log_has_the_size_that_the_appendix_says(full: Log) -> None:
    # 334 thousand requests, 1.67 million rows, 604 thousand clicks; of the users, who join and leave, half have 258 or
    # more; requests are those of the users with many
    label = full.events["label"].to_numpy()
    assert len(full.truth["requests"]) == pytest.approx(334_000, rel=0.02)
    assert len(label) == 5 * len(full.truth["requests"])
    assert label.sum() == pytest.approx(604_000, rel=0.03)
    assert np.median(np.bincount(codes(full, "user_id"), weights=label)) == pytest.approx(258, rel=0.05)


def test_histories_of_the_test_part_are_long_and_some_users_are_new(full: Log) -> None:
    user, label = codes(full, "user_id"), full.events["label"].to_numpy()
    order = np.argsort(user, kind="stable")  # the log is in order of time
    clicks = np.cumsum(label[order])
    starts = np.searchsorted(user[order], np.arange(user.max() + 1))
    before = np.empty(len(user))
    before[order] = clicks - label[order] - (clicks - label[order])[starts][user[order]]
    history = before[int(0.91 * len(user)) :: 5]
    assert np.median(history) == pytest.approx(320, rel=0.1)
    assert 0.01 < (history < 20).mean() < 0.06


def test_candidates_follow_the_shares_of_the_appendix(full: Log) -> None:
    # .65 of the session's theme + .20 x its weight among the user's own + .15 / 12 of any; a little less as a request
    # does not repeat an item
    theme = dict(zip(*(full.truth["items"][name].to_pylist() for name in ("item_id", "theme")), strict=True))
    candidate = np.array([theme[item] for item in full.events["item_id"].to_pylist()])
    session = np.repeat(full.truth["requests"]["theme"].to_numpy(), 5)
    assert 0.65 < (candidate == session).mean() < 0.75


def test_log_b_draws_half_of_the_candidates_from_the_next_theme() -> None:
    log = simulate(session_log(SMALL), seed=1)
    theme = dict(zip(*(log.truth["items"][name].to_pylist() for name in ("item_id", "theme")), strict=True))
    candidate = np.array([theme[item] for item in log.events["item_id"].to_pylist()])
    session = np.repeat(log.truth["requests"]["theme"].to_numpy(), 5)
    assert 0.45 < (candidate == (session + 1) % 12).mean() < 0.6


def test_a_request_never_shows_an_item_twice(full: Log) -> None:
    item = codes(full, "item_id").reshape(-1, 5)
    assert (np.diff(np.sort(item, axis=1), axis=1) > 0).all()


def test_a_user_never_has_the_same_theme_in_two_sessions_in_a_row_nor_two_requests_at_once(full: Log) -> None:
    requests = full.truth["requests"].to_pandas().sort_values(["user_id", "occurred_at"])
    same_user = requests["user_id"].eq(requests["user_id"].shift())
    hop = same_user & requests["session"].ne(requests["session"].shift())
    assert not (hop & requests["theme"].eq(requests["theme"].shift())).any()
    assert (requests["occurred_at"].diff()[same_user] > np.timedelta64(0)).all()
    # a quarter of the hops come without a gap; exponential(60 s) stays under 30 minutes, 1 h + lognormal never does
    assert (requests["occurred_at"].diff()[hop] < np.timedelta64(30, "m")).mean() == pytest.approx(0.25, abs=0.01)


def test_clicks_follow_their_logits(full: Log) -> None:
    logit, label = full.truth["logits"]["logit"].to_numpy(), full.events["label"].to_numpy()
    assert label.mean() == pytest.approx((1 / (1 + np.exp(-logit.astype(float)))).mean(), abs=0.002)


def test_the_log_itself_shows_neither_sessions_nor_themes(full: Log) -> None:
    assert full.events["session_id"].null_count == len(full.events)
    assert not {"theme", "cluster"} & {*full.events.column_names, *full.items.column_names}


def test_a_tenth_of_the_categories_is_wrong(full: Log) -> None:
    rows = full.truth["items"].to_pandas()
    rows["category"] = [categories[0] for categories in full.items["categories"].to_pylist()]
    usual = rows.groupby(["theme", "cluster"])["category"].transform(lambda values: values.mode()[0])
    assert (rows["category"] != usual).mean() == pytest.approx(0.1, abs=0.03)


def test_too_few_items_for_the_themes_are_an_input_error() -> None:
    few = SMALL.model_copy(update={"num_items": 8})
    with pytest.raises(InputError, match=r"simulator.num_items: 8 items leave \d+ of 12 themes without one"):
        simulate(few, seed=1)
