"""Scores of the test rows -> figures of every model, differences between models with intervals, slices."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from features.terms.convention import is_click
from training.metrics import auc as pooled_auc
from training.metrics import bootstrap_auc, calibration, draw_users, gauc, grouped_auc, iauc, logloss
from training.requests.reader import Requests

INTERVAL = (2.5, 97.5)  # percent of the bootstrap

Floats = npt.NDArray[np.floating]


class Scored(NamedTuple):
    """What a model says of each row: a score to rank by, and a probability of a click."""

    score: Floats
    probability: Floats


def measure(scored: Scored, requests: Requests) -> dict[str, float]:
    """All figures of one model; nan where one is not defined."""
    labels, users = requests.label, requests.user_index[requests.request_of_row]
    return {
        "auc": pooled_auc(scored.score, labels),
        "iauc": iauc(scored.score, labels, requests.request_of_row),
        "gauc": gauc(scored.score, labels, users),
        "logloss": logloss(scored.probability, labels),
        "calibration_error": calibration(scored.probability, labels).error if len(labels) else math.nan,
    }


def measure_slices(
    scored: Mapping[str, Scored], requests: Requests, masks: Mapping[str, npt.NDArray[np.bool_]]
) -> dict[str, dict[str, float]]:
    """Slice -> its size, and every model's AUC and iAUC on its rows alone."""
    request, slices = requests.request_of_row, {}
    for name, mask in masks.items():
        labels = requests.label[mask]
        row: dict[str, float] = {"requests": len(np.unique(request[mask])), "impressions": int(mask.sum())}
        for model, values in scored.items():
            row[f"{model}_auc"] = pooled_auc(values.score[mask], labels)
            row[f"{model}_iauc"] = iauc(values.score[mask], labels, request[mask])
        slices[name] = row
    return slices


def differences(
    scored: Mapping[str, Scored],
    requests: Requests,
    pairs: Sequence[tuple[str, str]],
    num_bootstrap: int,
    seed: int,
) -> dict[str, dict[str, float]]:
    """ "<first>_minus_<other>" -> difference in AUC and iAUC with 95 % intervals; the bootstrap draws users."""
    user_of_request, weights_RU = draw_weights(requests, num_bootstrap, seed)
    request = requests.request_of_row
    auc, within, auc_R, iauc_R = {}, {}, {}, {}
    for name in sorted({name for pair in pairs for name in pair}):
        score = scored[name].score
        auc[name] = pooled_auc(score, requests.label)
        within[name] = iauc(score, requests.label, request)
        auc_R[name] = bootstrap_auc(score, requests.label, user_of_request[request], weights_RU)
        iauc_R[name] = bootstrap_iauc([score], requests, num_bootstrap, seed)
    return {
        f"{first}_minus_{other}": with_interval("auc", auc[first] - auc[other], auc_R[first] - auc_R[other])
        | with_interval("iauc", within[first] - within[other], iauc_R[first] - iauc_R[other])
        for first, other in pairs
    }


def rankable(requests: Requests) -> npt.NDArray[np.bool_]:
    """[R] which requests can be ranked: they hold a click and a candidate without one."""
    clicks = np.bincount(requests.request_of_row, is_click(requests.label), minlength=len(requests))
    return (clicks > 0) & (clicks < np.diff(requests.row_starts))


def draw_weights(
    requests: Requests, num_bootstrap: int, seed: int
) -> tuple[npt.NDArray[np.integer], npt.NDArray[np.float64]]:
    """(each request's user in [0, U), [R, U] how often each draw holds each user)."""
    users, user_of_request = np.unique(requests.user_index, return_inverse=True)
    return user_of_request, draw_users(len(users), num_bootstrap, seed) if len(users) else np.zeros((0, 0))


def bootstrap_iauc(scores: Sequence[Floats], requests: Requests, num_bootstrap: int, seed: int) -> Floats:
    """[R] mean AUC within a request under each draw of the users. scores: [N] each; several (seeds) are meaned."""
    user_of_request, weights_RU = draw_weights(requests, num_bootstrap, seed)
    within = [grouped_auc(score, requests.label, requests.request_of_row) for score in scores]
    return _drawn_mean(np.mean([each.auc for each in within], axis=0), user_of_request[within[0].group], weights_RU)


def _drawn_mean(values: Floats, user: npt.NDArray[np.integer], weights_RU: Floats) -> Floats:
    """[R] mean of values under each weighting of the users that they belong to."""
    num_users = weights_RU.shape[1]
    sums = weights_RU @ np.bincount(user, values, minlength=num_users)[:num_users]
    counts = weights_RU @ np.bincount(user, minlength=num_users)[:num_users]
    return np.divide(sums, counts, out=np.full(len(sums), np.nan), where=counts > 0)


def with_interval(name: str, value: float, drawn: Floats) -> dict[str, float]:
    """A figure and the 95 % interval of its draws, as name, name_low and name_high."""
    drawn = drawn[np.isfinite(drawn)]
    low, high = np.percentile(drawn, INTERVAL) if len(drawn) else (math.nan, math.nan)
    return {name: value, f"{name}_low": float(low), f"{name}_high": float(high)}
