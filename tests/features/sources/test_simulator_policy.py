"""The logging policy's propensities equal its observed frequencies and a slow derivation."""

from functools import cache

import numpy as np
import pytest

from features.sources.simulator import simulate
from features.sources.simulator_policy import Slates, draw_slates, probability
from features.sources.simulator_shelf import Shelf, fill_shelf
from features.sources.simulator_visits import Visits
from features.sources.simulator_world import Users, draw_items, draw_users
from features.terms.params import SimulatorParams

TINY = SimulatorParams(
    preference="item", num_days=1, num_users=3, num_items=30, num_themes=6, num_sessions=4, item_life_days=2.0
)
NUM_DRAWS = 150_000
USER, THEME = 1, 2


def same_requests(number: int) -> Visits:
    """A number of requests of one user in one session."""
    return Visits(*(np.full(number, value) for value in (USER, 0, THEME, 0, 0)))


@cache
def drawn(preference: str) -> tuple[SimulatorParams, Shelf, Users, Slates]:
    params = TINY.model_copy(update={"preference": preference})
    rng = np.random.default_rng(11)
    users = draw_users(params, rng)
    shelf = fill_shelf(params, draw_items(params, rng), rng)
    return params, shelf, users, draw_slates(params, shelf, users, same_requests(NUM_DRAWS), rng)


@pytest.mark.parametrize("preference", ["item", "session"])
def test_propensities_equal_the_frequencies_of_shown_items(preference: str) -> None:
    _, _, _, slates = drawn(preference)
    for first in (None, *np.argsort(-np.bincount(slates.place[:, 0]))[:2]):  # of the first, and of the second given it
        column, rows = (0, slice(None)) if first is None else (1, slates.place[:, 0] == first)
        place, propensity = slates.place[rows, column], slates.propensity[rows, column]
        counted = np.bincount(place, minlength=TINY.num_items) / len(place)
        said = np.zeros(TINY.num_items)
        said[place] = propensity
        error = np.sqrt(said * (1 - said) / len(place))
        assert (np.abs(counted - said) <= 4.5 * error + 1e-12).all()
        assert said.sum() == pytest.approx(1, abs=1e-9)  # every place that can be shown was, and the others cannot


@pytest.mark.parametrize("preference", ["item", "session"])
def test_one_draw_follows_the_mixture_term_by_term(preference: str) -> None:
    params, shelf, users, _ = drawn(preference)
    T, P = params.num_themes, params.num_items
    themes = 0.65 * np.eye(T)[THEME] + 0.20 * users.weight[USER] + 0.15 / T
    if preference == "session":
        themes = 0.5 * np.eye(T)[(THEME + 1) % T] + 0.5 * themes
    slow = []
    for place in range(P):
        rank = place - int(np.flatnonzero(shelf.theme == shelf.theme[place])[0])
        zipf = [1 / (other + 1) ** 0.9 for other in range(int((shelf.theme == shelf.theme[place]).sum()))]
        slow.append(0.95 * themes[shelf.theme[place]] * zipf[rank] / sum(zipf) + 0.05 / P)
    fast = probability(params, shelf, users, np.array(USER), np.array(THEME), np.arange(P))
    assert fast == pytest.approx(np.array(slow), abs=1e-12)
    assert fast.sum() == pytest.approx(1, abs=1e-12)


def test_a_later_candidate_is_drawn_from_the_places_that_remain() -> None:
    _, _, _, slates = drawn("item")
    left = 1 - np.cumsum(slates.one_draw, axis=1)[:, :-1]
    np.testing.assert_allclose(slates.propensity[:, 0], slates.one_draw[:, 0], rtol=1e-14)
    np.testing.assert_allclose(slates.propensity[:, 1:], slates.one_draw[:, 1:] / left, rtol=1e-12)


def test_weighting_by_the_propensities_undoes_the_policy() -> None:
    # the click rate of a policy that shows any item alike, from the log of the real one, against its true value
    params, shelf, _, slates = drawn("item")
    clicked = np.random.default_rng(4).random(NUM_DRAWS) < 1 / (1 + np.exp(-shelf.appeal[0, slates.place[:, 0]]))
    uniform = (1 / (1 + np.exp(-shelf.appeal[0]))).mean()
    weight = (1 / params.num_items) / slates.propensity[:, 0]
    error = (weight * clicked).std() / np.sqrt(NUM_DRAWS)
    assert (weight * clicked).mean() == pytest.approx(uniform, abs=4 * error)
    assert abs(clicked.mean() - uniform) > 4 * error  # and the plain mean is another policy's


def test_the_truth_names_a_propensity_for_every_candidate() -> None:
    params = TINY.model_copy(update={"num_users": 60, "num_items": 60})
    log = simulate(params, seed=1)
    table = log.truth["propensities"]
    assert table["event_id"].to_pylist() == log.events["event_id"].to_pylist()
    propensity = table["propensity"].to_numpy().reshape(-1, 5)
    assert propensity.min() > 0
    assert propensity.max() <= 1
    # of the first candidate the mean of 1 / propensity is the number of items that can be shown
    inverse = 1 / propensity[:, 0]
    assert inverse.mean() == pytest.approx(60, abs=4 * inverse.std() / np.sqrt(len(inverse)))
