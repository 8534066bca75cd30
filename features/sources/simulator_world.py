"""Simulator params -> what there is before anybody acts: items of hidden themes, users of several themes with tastes.

Axes: U users, T themes, I items, K style dimensions, C clusters of a theme.
"""

from dataclasses import dataclass

import numpy as np

from contracts.errors import InputError
from features.terms.params import SimulatorParams

NUM_CLUSTERS = 5
NUM_STYLES = 4
CLUSTER_SPREAD = 0.175
QUALITY_SPREAD = BIAS_SPREAD = 0.4
WRONG_CATEGORY = 0.1
ZIPF_EXPONENT = 0.9
MIN_THEMES, MAX_THEMES = 3, 6
DIRICHLET = 2.0


@dataclass(frozen=True)
class Items:
    """Arrays over I, and the way to draw an item of a theme by its popularity."""

    theme: np.ndarray
    cluster: np.ndarray
    category: np.ndarray  # what is observed of theme and cluster
    style: np.ndarray  # [I, K]
    quality: np.ndarray
    by_popularity: np.ndarray  # items in order of theme, the most popular first
    ends: np.ndarray  # in that order: theme + the share of the theme's popularity up to here

    def draw(self, theme: np.ndarray, uniform: np.ndarray) -> np.ndarray:
        """One item of each theme, given a number in [0, 1)."""
        return self.by_popularity[np.searchsorted(self.ends, theme + uniform, side="right")]


@dataclass(frozen=True)
class Users:
    """Arrays over U."""

    weight: np.ndarray  # [U, T], rows sum to 1; 0: not one of the user's themes
    preference: np.ndarray  # [U, T, K]
    bias: np.ndarray


def draw_items(params: SimulatorParams, rng: np.random.Generator) -> Items:
    T, num_items = params.num_themes, params.num_items
    theme_I = rng.integers(T, size=num_items)
    counts_T = np.bincount(theme_I, minlength=T)
    if (counts_T == 0).any():
        raise InputError(
            f"simulator.num_items: {num_items} items leave {(counts_T == 0).sum()} of {T} themes without one. "
            f"Raise it to {20 * T} or more, or lower simulator.num_themes."
        )
    cluster_I = rng.integers(NUM_CLUSTERS, size=num_items)
    centre_TCK = rng.standard_normal((T, NUM_CLUSTERS, NUM_STYLES))
    style_IK = centre_TCK[theme_I, cluster_I] + CLUSTER_SPREAD * rng.standard_normal((num_items, NUM_STYLES))
    quality_I = QUALITY_SPREAD * rng.standard_normal(num_items)
    names = rng.permutation(T * NUM_CLUSTERS)
    wrong_I = rng.random(num_items) < WRONG_CATEGORY
    shift_I = rng.integers(1, T * NUM_CLUSTERS, size=num_items)
    category_I = (names[theme_I * NUM_CLUSTERS + cluster_I] + wrong_I * shift_I) % (T * NUM_CLUSTERS)
    by_popularity_I = np.lexsort((rng.permutation(num_items), theme_I))
    starts_T = np.cumsum(counts_T) - counts_T
    sorted_theme_I = theme_I[by_popularity_I]
    popularity_I = 1.0 / (np.arange(num_items) - starts_T[sorted_theme_I] + 1.0) ** ZIPF_EXPONENT
    total_T = np.bincount(sorted_theme_I, weights=popularity_I)
    running_I = np.cumsum(popularity_I)
    before_T = np.cumsum(total_T) - total_T
    ends_I = sorted_theme_I + (running_I - before_T[sorted_theme_I]) / total_T[sorted_theme_I]
    ends_I[starts_T + counts_T - 1] = np.arange(T) + 1.0
    return Items(theme_I, cluster_I, category_I, style_IK, quality_I, by_popularity_I, ends_I)


def draw_users(params: SimulatorParams, rng: np.random.Generator) -> Users:
    U, T = params.num_users, params.num_themes
    themes_UT = rng.permuted(np.tile(np.arange(T), (U, 1)), axis=1)
    num_themes_U = rng.integers(MIN_THEMES, MAX_THEMES + 1, size=U)
    drawn_UT = rng.gamma(DIRICHLET, size=(U, T)) * (np.arange(T) < num_themes_U[:, None])
    weight_UT = np.zeros((U, T))
    np.put_along_axis(weight_UT, themes_UT, drawn_UT / drawn_UT.sum(axis=1, keepdims=True), axis=1)
    preference_UTK = rng.standard_normal((U, T, NUM_STYLES))
    return Users(weight_UT, preference_UTK, BIAS_SPREAD * rng.standard_normal(U))
