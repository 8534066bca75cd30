"""Figures of requests -> their distribution, and how far served requests have drifted from it: the population
stability index (PSI).

Each figure is binned at the deciles of the test requests; equal cuts are merged.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

NUM_BINS = 10
FLOOR = 1e-4
"""Share that an empty bin counts with, to keep its logarithm finite."""

Values = npt.NDArray[Any]


def profile(figures: Mapping[str, Values], num_requests: int) -> dict[str, Any]:
    """The reference for drift: the bin cuts of every figure and the share of its values in each bin.

    figures: finite values by name, one per request or one per candidate.
    """
    by_figure = {}
    for name, values in figures.items():
        cuts = np.unique(np.quantile(values, np.linspace(0, 1, NUM_BINS + 1)[1:-1])) if len(values) else np.zeros(0)
        by_figure[name] = {"cuts": cuts.tolist(), "shares": shares(values, cuts).tolist(), "num": len(values)}
    return {"num_requests": num_requests, "figures": by_figure}


def shares(values: Values, cuts: Values) -> npt.NDArray[np.float64]:
    """[C + 1] the share of values in each bin; a bin is (lower cut, upper cut]."""
    counted = np.bincount(np.searchsorted(cuts, values, side="left"), minlength=len(cuts) + 1)
    return counted / max(1, len(values))


def stability(expected: Values, found: Values, num_expected: int, num_found: int) -> float:
    """The PSI minus its expected value under no drift; at least 0.

    expected, found: [C + 1] shares. num_expected, num_found: independent draws behind each, that is requests: the
        candidates of one request are correlated.
    """
    before, now = (np.maximum(each, FLOOR) for each in (expected, found))
    raw = float(((now - before) * np.log(now / before)).sum())
    by_chance = (len(before) - 1) * (1 / max(1, num_expected) + 1 / max(1, num_found))
    return max(0.0, raw - by_chance)
