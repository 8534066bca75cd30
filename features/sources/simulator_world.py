"""Simulator params -> the world before any request: items with hidden themes and publication times, users with tastes.

Axes: U users, T themes, I items over all time, P places on the shelf, K style dimensions, C clusters of a theme.
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
MIN_THEMES, MAX_THEMES = 3, 6
DIRICHLET = 2.0
DAY_H = 24


@dataclass(frozen=True)
class WorldItems:
    """Arrays over I, in order of publication.

    A new item replaces the oldest one, which has the same theme, so the number of items on offer never changes.
    """

    theme: np.ndarray
    cluster: np.ndarray
    category: np.ndarray  # the observable label of theme and cluster, sometimes wrong
    style: np.ndarray  # [I, K]
    quality: np.ndarray
    place: np.ndarray  # on the shelf, in [0, P); places are in order of their themes
    born_h: np.ndarray  # publication time in hours since the log's start; negative for the first P items


@dataclass(frozen=True)
class Users:
    """Arrays over U."""

    weight: np.ndarray  # [U, T], rows sum to 1; 0: the theme is not one of the user's
    preference: np.ndarray  # [U, T, K]
    bias: np.ndarray


def draw_items(params: SimulatorParams, rng: np.random.Generator) -> WorldItems:
    """Draw the items. Raises InputError if a theme would have no item."""
    T, P = params.num_themes, params.num_items
    theme_P = np.sort(rng.integers(T, size=P))
    counts_T = np.bincount(theme_P, minlength=T)
    if (counts_T == 0).any():
        raise InputError(
            f"simulator.num_items: {P} items leave {(counts_T == 0).sum()} of {T} themes without one. "
            f"Raise it to {20 * T} or more, or lower simulator.num_themes."
        )
    between_h = params.item_life_days * DAY_H / P  # from one new item to the next
    num_items = P + int(params.num_days * DAY_H / between_h)
    born_h_I = np.round((np.arange(num_items) - P + rng.random(num_items)) * between_h, 6)
    place_I = rng.permutation(P)[np.arange(num_items) % P]
    theme_I = theme_P[place_I]
    cluster_I = rng.integers(NUM_CLUSTERS, size=num_items)
    centre_TCK = rng.standard_normal((T, NUM_CLUSTERS, NUM_STYLES))
    style_IK = centre_TCK[theme_I, cluster_I] + CLUSTER_SPREAD * rng.standard_normal((num_items, NUM_STYLES))
    quality_I = QUALITY_SPREAD * rng.standard_normal(num_items)
    names = rng.permutation(T * NUM_CLUSTERS)
    wrong_I = rng.random(num_items) < WRONG_CATEGORY
    shift_I = rng.integers(1, T * NUM_CLUSTERS, size=num_items)
    category_I = (names[theme_I * NUM_CLUSTERS + cluster_I] + wrong_I * shift_I) % (T * NUM_CLUSTERS)
    return WorldItems(theme_I, cluster_I, category_I, style_IK, quality_I, place_I, born_h_I)


def draw_users(params: SimulatorParams, rng: np.random.Generator) -> Users:
    U, T = params.num_users, params.num_themes
    themes_UT = rng.permuted(np.tile(np.arange(T), (U, 1)), axis=1)
    num_themes_U = rng.integers(MIN_THEMES, MAX_THEMES + 1, size=U)
    drawn_UT = rng.gamma(DIRICHLET, size=(U, T)) * (np.arange(T) < num_themes_U[:, None])
    weight_UT = np.zeros((U, T))
    np.put_along_axis(weight_UT, themes_UT, drawn_UT / drawn_UT.sum(axis=1, keepdims=True), axis=1)
    preference_UTK = rng.standard_normal((U, T, NUM_STYLES))
    return Users(weight_UT, preference_UTK, BIAS_SPREAD * rng.standard_normal(U))
