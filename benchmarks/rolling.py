"""A track's parts and fitted trees -> trees retrained each test day on everything known by then.

Unlike the other rows, these are trained on labels of earlier test days. They show the value of daily retraining.
"""

import logging
import time

import lightgbm
import numpy as np
import numpy.typing as npt

from benchmarks.contenders import Contender
from benchmarks.tracks import Track
from benchmarks.trees import FIXED, Trees
from training.judging.measure import Scored
from training.metrics import sigmoid

log = logging.getLogger("leitmotif")

DAY_US = 86_400_000_000


def rolling_trees(track: Track, fitted: list[Trees], seeds: list[int], delay_us: int, num_threads: int) -> Contender:
    """Binary trees with the settings and rounds of `fitted`, refitted before each day of the test part.

    delay_us: a label is known that long after its request. Days begin at the first test request's time.
    """
    parts = (track.train, track.validation, track.test)
    scalars = np.concatenate([part.scalars for part in parts])
    labels = np.concatenate([part.label for part in parts])
    at = np.concatenate([np.repeat(part.requests.at, part.sizes) for part in parts])
    first_row = len(labels) - len(track.test.label)
    logits = [np.empty(len(track.test.label)) for _ in fitted]
    for begins in _days(at[first_row:]):
        known = at + delay_us <= begins
        asked = np.flatnonzero((at >= begins) & (at < begins + DAY_US))
        asked = asked[asked >= first_row]
        began = time.perf_counter()
        for trees, seed, found in zip(fitted, seeds, logits, strict=True):
            booster = _refit(scalars[known], labels[known], trees, seed, num_threads)
            found[asked - first_row] = np.asarray(booster.predict(scalars[asked], raw_score=True))
        log.info(
            "trees_rolling: day of %s rows, trained on %s, %.1f s",
            f"{len(asked):,}", f"{known.sum():,}", time.perf_counter() - began,
        )  # fmt: skip
    note = "retrained before each test day on all earlier labels, those of earlier test days included"
    return Contender("trees_rolling", [Scored(each, sigmoid(each)) for each in logits], note)


def _days(at: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Beginnings of the days that hold these times."""
    first = int(at.min())
    return np.unique((at - first) // DAY_US) * DAY_US + first


def _refit(
    scalars: npt.NDArray[np.float32], labels: npt.NDArray[np.float32], trees: Trees, seed: int, num_threads: int
) -> lightgbm.Booster:
    params = FIXED | trees.settings | {"objective": "binary", "seed": seed, "num_threads": num_threads}
    return lightgbm.train(params, lightgbm.Dataset(scalars, labels), trees.booster.best_iteration)
