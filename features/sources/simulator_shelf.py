"""Items with their lifetimes -> the items on offer in each hour, most popular first. Popularity drifts; new items gain.

Axes: H hours, P places on the shelf, T themes, I items.
"""

from dataclasses import dataclass

import numpy as np

from features.sources.simulator_world import DAY_H, WorldItems
from features.terms.params import SimulatorParams

ZIPF_EXPONENT = 0.9
FRESH, FRESH_H = 0.8, 36.0  # the bonus of a new item, and the hours in which it falls to 1/e
TREND_SPREAD, TREND_H = 0.4, 48.0  # standard deviation of an item's trend, and the hours in which it decays to 1/e
REACH_SPREAD = 0.6  # what affects popularity but not clicks: where an item is shown, who made it


@dataclass(frozen=True)
class Shelf:
    """P places in order of theme, and within a theme in order of popularity in that hour.

    A place is a rank within its theme. Its popularity follows Zipf's law and never changes; which item has it does.
    """

    item: np.ndarray  # [H, P]
    appeal: np.ndarray  # [H, P] what the item adds to the logit of a click: quality, trend and bonus of a new item
    theme: np.ndarray  # [P]
    share: np.ndarray  # [P] of its theme's popularity
    ends: np.ndarray  # [P] theme + cumulative share of the theme's popularity, this place included

    def draw(self, theme: np.ndarray, uniform: np.ndarray) -> np.ndarray:
        """A place of each given theme, in proportion to popularity. uniform: numbers in [0, 1)."""
        return np.searchsorted(self.ends, theme + uniform, side="right")


def fill_shelf(params: SimulatorParams, items: WorldItems, rng: np.random.Generator) -> Shelf:
    """The items on offer in every hour of the log."""
    P, T = params.num_items, params.num_themes
    item_HP = _occupants(items, P, params.num_days * DAY_H)
    theme_P = np.empty(P, np.int64)
    theme_P[items.place] = items.theme
    age_HP = np.arange(len(item_HP))[:, None] - items.born_h[item_HP]
    appeal_HP = items.quality[item_HP] + FRESH * np.exp(-age_HP / FRESH_H) + _trends(item_HP, rng)
    reach_HP = (REACH_SPREAD * rng.standard_normal(len(items.quality)))[item_HP]
    # rounded, so that the order does not depend on the last bit of a machine's arithmetic
    appeal_HP, popularity_HP = np.round(appeal_HP, 6), np.round(appeal_HP + reach_HP, 6)
    order_HP = np.lexsort((-popularity_HP, np.broadcast_to(theme_P, item_HP.shape)), axis=1)
    share_P, ends_P = _zipf(theme_P, T)
    item_HP, appeal_HP = (np.take_along_axis(values, order_HP, axis=1) for values in (item_HP, appeal_HP))
    return Shelf(item_HP, appeal_HP, theme_P, share_P, ends_P)


def offered_from(items: WorldItems) -> np.ndarray:
    """[I] the first full hour after each item was published. It is on offer until the next item takes its place."""
    return np.ceil(items.born_h).astype(np.int64)


def _occupants(items: WorldItems, num_places: int, num_hours: int) -> np.ndarray:
    """[H, P] the newest item of each place."""
    from_h_I = np.maximum(offered_from(items), 0)
    item_HP = np.zeros((num_hours, num_places), np.int64)
    shown_I = np.flatnonzero(from_h_I < num_hours)
    item_HP[from_h_I[shown_I], items.place[shown_I]] = shown_I
    return np.maximum.accumulate(item_HP, axis=0)  # items are numbered in order of publication


def _trends(item_HP: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """[H, P] a first-order autoregression for each item, stationary from its first hour on."""
    decay = float(np.exp(-1.0 / TREND_H))
    drawn_HP = TREND_SPREAD * rng.standard_normal(item_HP.shape)
    trend_HP = drawn_HP.copy()
    for hour in range(1, len(item_HP)):
        moved_P = decay * trend_HP[hour - 1] + np.sqrt(1.0 - decay**2) * drawn_HP[hour]
        trend_HP[hour] = np.where(item_HP[hour] == item_HP[hour - 1], moved_P, drawn_HP[hour])
    return trend_HP


def _zipf(theme_P: np.ndarray, num_themes: int) -> tuple[np.ndarray, np.ndarray]:
    """(share of each place in its theme's popularity, theme + cumulative sum of these)."""
    counts_T = np.bincount(theme_P, minlength=num_themes)
    starts_T = np.cumsum(counts_T) - counts_T
    weight_P = 1.0 / (np.arange(len(theme_P)) - starts_T[theme_P] + 1.0) ** ZIPF_EXPONENT
    share_P = weight_P / np.bincount(theme_P, weights=weight_P)[theme_P]
    ends_P = np.cumsum(share_P)  # the last place of each theme is set to exactly theme + 1 below
    ends_P[starts_T + counts_T - 1] = np.arange(num_themes) + 1.0
    return share_P, ends_P
