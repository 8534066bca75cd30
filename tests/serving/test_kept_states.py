"""A user's state is kept as long as a new one would be the same, and not for one who is gone."""

from typing import Any

import numpy as np
import pytest
import torch

from features.encoding.encode import AGE_UNIT_US
from serving.answering.kept_states import KeptStates
from serving.answering.predictor import Predictor
from serving.bundle.scorer import NO_EVENTS, Events

pytestmark = pytest.mark.xdist_group("serving")

SECOND = 1_000_000


@pytest.fixture(scope="module")
def user(predictor: Predictor) -> tuple[str, Events]:
    """A user with a history."""
    user_id = predictor.bundle.golden[0].user_id
    events = predictor.events(user_id)
    assert events is not None
    assert len(events.item_ids) > 5
    return user_id, events


def same(one: Any, other: Any) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_at_any_time_the_state_is_the_one_that_the_model_computes(
    predictor: Predictor, user: tuple[str, Events]
) -> None:
    (user_id, events), scorer = user, predictor.bundle.scorer
    kept, random = KeptStates(), np.random.default_rng(0)
    newest = int(events.occurred_at[-1])
    edges = [newest + (2**n - 1) * AGE_UNIT_US + more for n in range(6) for more in (-1, 0, 1)]
    within = random.integers(int(events.occurred_at[0]), newest + 3600 * SECOND, 40).tolist()
    num_kept, before = 0, None
    for at in sorted([*edges, *within, *(newest + step * 7 * SECOND for step in range(60))]):
        state = kept.state(scorer, user_id, events, at, None)
        assert same(state, scorer.user_side(events, at)), at
        num_kept += state is before
        before = state
    assert num_kept > 10
    assert kept.state(scorer, user_id, events, newest + 1, None) is not before  # back in time: anew


def test_a_click_more_gives_another_state_and_other_users_take_the_place(
    predictor: Predictor, user: tuple[str, Events]
) -> None:
    (user_id, events), scorer = user, predictor.bundle.scorer
    kept, at = KeptStates(max_users=2), int(events.occurred_at[-1]) + 5 * SECOND
    fewer = events.between(0, len(events.item_ids) - 1)
    first = kept.state(scorer, user_id, fewer, at, None)
    assert kept.state(scorer, user_id, fewer, at, None) is first
    second = kept.state(scorer, user_id, events, at, None)
    assert same(second, scorer.user_side(events, at))
    assert not same(first, second)
    for other in ("a", "b"):
        kept.state(scorer, other, events, at, None)
    assert kept.state(scorer, user_id, events, at, None) is not second


def test_nothing_is_kept_of_a_user_who_is_forgotten(predictor: Predictor, user: tuple[str, Events]) -> None:
    (user_id, events), scorer = user, predictor.bundle.scorer
    kept, at = KeptStates(), int(events.occurred_at[-1]) + SECOND
    first = kept.state(scorer, user_id, events, at, None)
    assert same(kept.state(scorer, user_id, NO_EVENTS, at, None), scorer.user_side(NO_EVENTS, at))
    assert kept.state(scorer, user_id, events, at, None) is not first
