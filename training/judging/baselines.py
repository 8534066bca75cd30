"""Requests and counters -> what the baselines say of each candidate, each as of its request's time."""

import numpy as np
import numpy.typing as npt

from contracts.schema import FIRST_INDEX
from features.encoding.counters import Counters
from features.encoding.encode import micros
from features.terms.convention import is_click
from training.requests.reader import Requests

NEWTON_STEPS = 30
NEWTON_TOLERANCE = 1e-7  # of the largest step
RIDGE = 1e-3  # keeps the fit finite where a baseline separates the classes

LOGIT_LIMIT = 30.0
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
    """[N] logits of a logistic regression on the scalars alone: what counters say without any history.

    train: [K, S] with labels [K]; test: [N, S]. Standardised by the train rows, as far out as a model's head reads.
    """
    if not len(train):
        return np.zeros(len(test))
    mean, scale = train.mean(axis=0, dtype=np.float64), train.std(axis=0, dtype=np.float64)
    scale[scale < SCALE_FLOOR] = 1.0
    x, asked = (np.clip((part - mean) / scale, -SCALAR_LIMIT, SCALAR_LIMIT) for part in (train, test))
    beta = fit_logistic(x, labels, LOGISTIC_RIDGE)
    return beta[0] + asked @ beta[1:]


def fit_logistic(features: npt.NDArray[np.floating], labels: npt.NDArray[np.floating], ridge: float = RIDGE) -> Floats:
    """[1 + K] intercept and slopes of P(click) = sigmoid(intercept + features @ slopes), by Newton's method.

    features: [N], or [N, K] of about the same scale. ridge: half of its product with the squared weights is added to
    the summed loss. Zeros of no rows.
    """
    x = np.column_stack([np.ones(len(features)), features]).astype(np.float64)
    clicked = is_click(labels)
    beta = np.zeros(x.shape[1])
    for _ in range(NEWTON_STEPS if len(x) else 0):
        p = sigmoid(x @ beta)
        gradient = x.T @ (p - clicked) + ridge * beta
        hessian = (x * (p * (1 - p))[:, None]).T @ x + ridge * np.eye(len(beta))
        step = np.linalg.solve(hessian, gradient)
        beta = beta - step
        if np.abs(step).max() < NEWTON_TOLERANCE:
            break
    return beta


def sigmoid(logits: npt.NDArray[np.floating]) -> Floats:
    """Probabilities, in double precision."""
    return 1 / (1 + np.exp(-np.clip(np.asarray(logits, np.float64), -LOGIT_LIMIT, LOGIT_LIMIT)))
