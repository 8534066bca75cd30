"""Figures of requests -> how they spread, and how far what is served has moved from it: the population stability index.

A figure is cut at the deciles of the test requests, so that each bin holds about as much of them; equal cuts are one.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

NUM_BINS = 10
FLOOR = 1e-4
"""Share of an empty bin: its logarithm is finite."""

Values = npt.NDArray[Any]


def profile(figures: Mapping[str, Values], num_requests: int) -> dict[str, Any]:
    """What drift is measured from: the cuts of every figure and the share of its values in each bin.

    figures: values by name, finite; one a request or one a candidate.
    """
    told = {}
    for name, values in figures.items():
        cuts = np.unique(np.quantile(values, np.linspace(0, 1, NUM_BINS + 1)[1:-1])) if len(values) else np.zeros(0)
        told[name] = {"cuts": cuts.tolist(), "shares": shares(values, cuts).tolist(), "num": len(values)}
    return {"num_requests": num_requests, "figures": told}


def shares(values: Values, cuts: Values) -> npt.NDArray[np.float64]:
    """[C + 1] the share of values in each bin; a bin holds what is above its lower cut and at most its upper one."""
    counted = np.bincount(np.searchsorted(cuts, values, side="left"), minlength=len(cuts) + 1)
    return counted / max(1, len(values))


def stability(expected: Values, found: Values, num_expected: int, num_found: int) -> float:
    """The population stability index, less what it is on average where nothing moved; at least 0.

    expected, found: [C + 1] shares. num_expected, num_found: independent draws behind each: requests, since the
        candidates of one request resemble each other.
    """
    before, now = (np.maximum(each, FLOOR) for each in (expected, found))
    raw = float(((now - before) * np.log(now / before)).sum())
    by_chance = (len(before) - 1) * (1 / max(1, num_expected) + 1 / max(1, num_found))
    return max(0.0, raw - by_chance)
