"""Requests and counters -> each baseline's score of every candidate, as of its request's time."""

import numpy as np
import numpy.typing as npt

from contracts.schema import FIRST_INDEX
from features.encoding.counters import Counters
from features.encoding.encode import micros
from training.metrics import fit_logistic
from training.requests.reader import Requests

LOGISTIC_RIDGE = 10.0
SCALE_FLOOR = 1e-6
SCALAR_LIMIT = 5.0  # standard deviations

Floats = npt.NDArray[np.float64]


def popularity(requests: Requests, counters: Counters, lag_s: float, window_s: float | None) -> Floats:
    """[N] clicks of each candidate in [t - lag - window, t - lag); of all time before t - lag where window is None."""
    keys = requests.item_index - FIRST_INDEX
    at = requests.at[requests.request_of_row]
    lag = micros(lag_s)
    if window_s is None:
        _, clicks = counters.item_counters.read(keys, at - lag)
    else:
        _, clicks = counters.item_counters.window(keys, at, lag, micros(window_s))
    return clicks.astype(np.float64)


def logistic(
    train: npt.NDArray[np.floating], labels: npt.NDArray[np.floating], test: npt.NDArray[np.floating]
) -> Floats:
    """[N] logits of a logistic regression on the scalars alone, without any history.

    train: [K, S] with labels [K]; test: [N, S]. Standardised by the train rows and clipped as in the model's head.
    """
    if not len(train):
        return np.zeros(len(test))
    mean, scale = train.mean(axis=0, dtype=np.float64), train.std(axis=0, dtype=np.float64)
    scale[scale < SCALE_FLOOR] = 1.0
    x, x_test = (np.clip((part - mean) / scale, -SCALAR_LIMIT, SCALAR_LIMIT) for part in (train, test))
    beta = fit_logistic(x, labels, LOGISTIC_RIDGE)
    return beta[0] + x_test @ beta[1:]
