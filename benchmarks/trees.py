"""A track's parts -> gradient-boosted trees on its scalars, by LightGBM: fitted on train, stopped on validation."""

import logging
import time
import warnings
from dataclasses import dataclass
from typing import Any, Literal

import lightgbm
import numpy as np
import numpy.typing as npt

from benchmarks.tracks import Part, Track
from training.metrics import iauc

log = logging.getLogger("leitmotif")

Objective = Literal["binary", "lambdarank"]
Floats = npt.NDArray[np.floating]

MAX_ROUNDS = 1500
PATIENCE = 60
FIXED = {
    "learning_rate": 0.05,
    "feature_fraction": 0.5,
    "bagging_fraction": 0.8,
    "bagging_freq": 1,
    "lambda_l2": 5.0,
    "metric": "none",
    "verbosity": -1,
    "deterministic": True,
    "force_row_wise": True,
}
GRID = ({"num_leaves": 31, "min_data_in_leaf": 100}, {"num_leaves": 63, "min_data_in_leaf": 200})
"""What tune chooses from, by the validation part's iAUC."""


@dataclass(frozen=True)
class Trees:
    """Fitted trees."""

    booster: lightgbm.Booster
    validation_iauc: float
    settings: dict[str, Any]

    def score(self, part: Part) -> Floats:
        """[N] raw scores; log odds where the objective is binary."""
        return np.asarray(self.booster.predict(part.scalars, raw_score=True), np.float64)


def fit_seeds(track: Track, objective: Objective, seeds: list[int], num_threads: int) -> list[Trees]:
    """One fit a seed; settings chosen once, with the first seed."""
    best = tune(track, objective, seeds[0], num_threads)
    return [best, *(fit(track, objective, seed, num_threads, best.settings) for seed in seeds[1:])]


def tune(track: Track, objective: Objective, seed: int, num_threads: int) -> Trees:
    """The best of GRID by validation iAUC."""
    fitted = [fit(track, objective, seed, num_threads, settings) for settings in GRID]
    return max(fitted, key=lambda trees: trees.validation_iauc)


def fit(track: Track, objective: Objective, seed: int, num_threads: int, settings: dict[str, Any]) -> Trees:
    """Boost until the validation iAUC has not risen for PATIENCE rounds; keeps the best round's trees."""
    began = time.perf_counter()
    params = FIXED | settings | {"objective": objective, "seed": seed, "num_threads": num_threads}
    names = list(track.spec.scalars)
    train = _dataset(track.train, names, objective, None)
    validation = _dataset(track.validation, names, objective, train)
    request = track.validation.requests.request_of_row

    def validation_iauc(scores: Floats, _: lightgbm.Dataset) -> tuple[str, float, bool]:
        return "iauc", iauc(scores, track.validation.label, request), True

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"lightgbm\..*")
        booster = lightgbm.train(
            params,
            train,
            MAX_ROUNDS,
            valid_sets=[validation],
            feval=validation_iauc,
            callbacks=[lightgbm.early_stopping(PATIENCE, verbose=False)],
        )
    best = float(booster.best_score["valid_0"]["iauc"])
    log.info(
        "%s, seed %d, %s: %d rounds, validation iAUC %.4f, %.1f s",
        objective, seed, settings, booster.best_iteration, best, time.perf_counter() - began,
    )  # fmt: skip
    return Trees(booster, best, settings)


def _dataset(
    part: Part, names: list[str], objective: Objective, reference: lightgbm.Dataset | None
) -> lightgbm.Dataset:
    group = part.sizes if objective == "lambdarank" else None
    return lightgbm.Dataset(part.scalars, part.label, group=group, reference=reference, feature_name=names)
