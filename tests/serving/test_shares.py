"""How a list is mixed: by the model's order alone, or also by the themes' shares of the user's interest."""

import numpy as np
import pytest

from serving.answering.shares import by_distance, by_share

ACTION, ROMANCE = np.eye(2)
PROBABILITY = np.array([0.8, 0.76, 0.72, 0.6, 0.56])
BELONGING = np.array([ACTION, ACTION, ACTION, ROMANCE, ROMANCE])


def slow(probability: np.ndarray, belonging: np.ndarray, current: np.ndarray, num: int, diversity: float) -> list[int]:
    """The formula of shares.py, computed one place at a time."""
    chosen: list[int] = []
    while len(chosen) < min(num, len(probability)):
        values = {}
        for row in range(len(probability)):
            if row in chosen:
                continue
            value = probability[row] / probability.max()
            for theme in range(len(current)):
                listed = sum(belonging[each][theme] for each in chosen) / max(len(chosen), 1)
                value += diversity * belonging[row][theme] * (current[theme] - listed)
            values[row] = value
        chosen.append(max(values, key=lambda row: values[row]))
    return chosen


def test_without_diversity_the_order_is_the_model_s() -> None:
    shuffled = np.array([3, 0, 4, 2, 1])
    order = by_share(PROBABILITY[shuffled], BELONGING[shuffled], ROMANCE, 5, 0.0)
    assert shuffled[order].tolist() == [0, 1, 2, 3, 4]


def test_with_it_the_theme_the_user_is_in_now_gains_what_the_other_has_too_much_of() -> None:
    """By hand: r = 1, .95, .9, .75, .7; u = (.2, .8). First: 1 + .5 x .2 = 1.1, and .75 + .5 x .8 = 1.15: romance.
    Then l = (0, 1): action 1 + .5 x .2 = 1.1, romance .7 + .5 x (.8 - 1) = .6: action."""
    assert by_share(PROBABILITY, BELONGING, np.array([0.2, 0.8]), 2, 0.5).tolist() == [3, 0]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("diversity", [0.0, 0.3, 1.0])
def test_the_list_equals_the_slow_formula(seed: int, diversity: float) -> None:
    rng = np.random.default_rng(seed)
    probability, current = rng.random(30), rng.dirichlet(np.ones(4))
    belonging = rng.dirichlet(np.full(4, 0.3), size=30)
    wanted = slow(probability, belonging, current, 12, diversity)
    assert by_share(probability, belonging, current, 12, diversity).tolist() == wanted


def test_the_more_of_the_user_a_theme_has_the_more_of_the_list() -> None:
    rng = np.random.default_rng(1)
    probability, belonging = rng.random(200), np.eye(2)[rng.integers(2, size=200)]
    shares = [
        belonging[by_share(probability, belonging, np.array([1 - share, share]), 20, 1.0)][:, 1].mean()
        for share in (0.1, 0.5, 0.9)
    ]
    assert shares[0] < shares[1] < shares[2]


def test_without_themes_similar_items_are_spread_over_the_list() -> None:
    """By hand: after the first, the second is its copy: .95 - .5 x 1 = .45; the fourth is like none: .75."""
    unit = np.array([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
    assert by_distance(PROBABILITY, unit, 2, 0.5).tolist() == [0, 3]
    assert by_distance(PROBABILITY, unit, 5, 0.0).tolist() == [0, 1, 2, 3, 4]


def test_a_short_list_is_given_whole_and_an_empty_one_stays_empty() -> None:
    assert sorted(by_share(PROBABILITY, BELONGING, ACTION, 9, 0.5).tolist()) == [0, 1, 2, 3, 4]
    assert len(by_share(np.zeros(0), np.zeros((0, 2)), ACTION, 9, 0.5)) == 0
    assert by_share(np.zeros(2), np.eye(2), ACTION, 2, 0.0).tolist() == [0, 1]
