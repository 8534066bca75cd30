"""Requests and the items on offer -> the items shown in each request, by a policy with known propensities.

Axes: R requests, M candidates of a request, T themes, P places on the shelf.
"""

from dataclasses import dataclass

import numpy as np

from features.sources.simulator_shelf import Shelf
from features.sources.simulator_visits import Visits, choose
from features.sources.simulator_world import Users
from features.terms.params import SimulatorParams

NUM_CANDIDATES = 5
EXPLORE_SHARE = 0.05  # of draws: a uniformly random place. Of the others:
SESSION_SHARE, OWN_SHARE = 0.65, 0.20  # the session's theme; one of the user's themes; the rest: any theme
NEXT_SHARE = 0.5  # log B: the theme after the session's instead


@dataclass(frozen=True)
class Slates:
    """Arrays over [R, M]: places, drawn one after the other, none twice in a request."""

    place: np.ndarray
    one_draw: np.ndarray  # the probability of the place in a single draw of the policy
    propensity: np.ndarray  # the probability of the place at this position, given the places before it


def draw_slates(
    params: SimulatorParams, shelf: Shelf, users: Users, requests: Visits, rng: np.random.Generator
) -> Slates:
    """Draw without replacement: a candidate that repeats an earlier one of its request is drawn again."""
    place_RM = np.full((len(requests.user), NUM_CANDIDATES), -1)
    row, column = (index.ravel() for index in np.indices(place_RM.shape))
    while len(row):
        place_RM[row, column] = _draw(params, shelf, users, requests.user[row], requests.theme[row], rng)
        again = np.unique(row)
        same_NMM = place_RM[again, :, None] == place_RM[again, None, :]
        row, column = np.nonzero(np.tril(same_NMM, -1).any(axis=2))
        row = again[row]
    one_draw_RM = probability(params, shelf, users, requests.user[:, None], requests.theme[:, None], place_RM)
    before_RM = np.cumsum(one_draw_RM, axis=1) - one_draw_RM
    return Slates(place_RM, one_draw_RM, one_draw_RM / (1.0 - before_RM))


def probability(
    params: SimulatorParams, shelf: Shelf, users: Users, user: np.ndarray, theme: np.ndarray, place: np.ndarray
) -> np.ndarray:
    """The probability that one draw for this user in a session of this theme takes this place. The arrays broadcast."""
    placed = shelf.theme[place]
    own, any_theme = users.weight[user, placed], 1.0 / params.num_themes
    of_theme = SESSION_SHARE * (placed == theme) + OWN_SHARE * own + (1.0 - SESSION_SHARE - OWN_SHARE) * any_theme
    if params.preference == "session":
        of_theme = NEXT_SHARE * (placed == (theme + 1) % params.num_themes) + (1.0 - NEXT_SHARE) * of_theme
    return (1.0 - EXPLORE_SHARE) * of_theme * shelf.share[place] + EXPLORE_SHARE / params.num_items


def _draw(
    params: SimulatorParams,
    shelf: Shelf,
    users: Users,
    user: np.ndarray,
    theme: np.ndarray,
    rng: np.random.Generator,
) -> np.ndarray:
    own = choose(users.weight[user], rng.random(len(user)))
    any_theme = rng.integers(params.num_themes, size=len(user))
    kind = rng.random(len(user))
    drawn = np.where(kind < SESSION_SHARE, theme, np.where(kind < SESSION_SHARE + OWN_SHARE, own, any_theme))
    if params.preference == "session":
        drawn = np.where(rng.random(len(user)) < NEXT_SHARE, (theme + 1) % params.num_themes, drawn)
    popular = shelf.draw(drawn, rng.random(len(user)))
    explored = rng.integers(params.num_items, size=len(user))
    return np.where(rng.random(len(user)) < EXPLORE_SHARE, explored, popular)
