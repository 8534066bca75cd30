"""The scalars of train and validation rows -> logits of the test rows by gradient-boosted trees (LightGBM).

A baseline without histories: a sequence model that ranks worse is not worth its cost. `pip install
'leitmotif[trees]'` installs LightGBM; without it this baseline is left out.
"""

import importlib.util
import warnings

import numpy as np
import numpy.typing as npt

from features.terms.convention import is_click

MAX_ROWS = 50_000
"""The latest rows of the train part to fit on; more rows take longer and change the figures little."""
MAX_ROUNDS = 100
PATIENCE = 10
SETTINGS = {
    "objective": "binary",
    "metric": "binary_logloss",
    "num_leaves": 31,
    "min_data_in_leaf": 100,
    "learning_rate": 0.1,
    "feature_fraction": 0.5,
    "lambda_l2": 5.0,
    "seed": 1,
    "max_bin": 63,
    "verbosity": -1,
    "deterministic": True,  # the same trees for any number of threads
    "force_row_wise": True,
}

Floats = npt.NDArray[np.floating]


def is_installed() -> bool:
    """Whether LightGBM is installed."""
    return importlib.util.find_spec("lightgbm") is not None


def trees(
    train: tuple[Floats, Floats], validation: tuple[Floats, Floats], test: Floats, num_threads: int
) -> npt.NDArray[np.float64] | None:
    """[N] logits of the test rows; None if the train rows have a single class.

    train, validation: ([K, S] scalars, [K] labels). Boosting stops when the validation logloss has not fallen for
    PATIENCE rounds, or without validation rows at MAX_ROUNDS.
    """
    clicked = is_click(train[1])[-MAX_ROWS:]
    if not is_installed() or not len(clicked) or clicked.all() or not clicked.any():
        return None
    import lightgbm

    params = SETTINGS | {"num_threads": num_threads}
    fitted_on = lightgbm.Dataset(train[0][-MAX_ROWS:], clicked.astype(np.float32))
    watched = []
    if len(validation[1]):
        watched = [lightgbm.Dataset(validation[0], is_click(validation[1]).astype(np.float32), reference=fitted_on)]
    stopping = [lightgbm.early_stopping(PATIENCE, verbose=False)] if watched else []
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"lightgbm\..*")
        booster = lightgbm.train(params, fitted_on, MAX_ROUNDS, valid_sets=watched, callbacks=stopping)
    if not len(test):
        return np.zeros(0)
    return np.asarray(booster.predict(test, raw_score=True), np.float64)
