"""Scores of the test rows -> figures of every model with intervals, differences between models, slices."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from features.terms.convention import is_click
from training.metrics import (
    PROBABILITY_FLOOR,
    bootstrap_auc,
    calibration,
    draw_users,
    entropy,
    gauc,
    grouped_auc,
    grouped_ndcg,
    iauc,
    logloss,
)
from training.metrics import auc as pooled_auc
from training.requests.reader import Requests

INTERVAL = (2.5, 97.5)  # percent of the bootstrap

Floats = npt.NDArray[np.floating]
Mask = npt.NDArray[np.bool_]


class Scored(NamedTuple):
    """A model's output for each row: a score to rank by, and a click probability."""

    score: Floats
    probability: Floats


class Ratio(NamedTuple):
    """A figure that is a ratio of two sums over users, so that the bootstrap needs no second sort."""

    above_U: Floats
    below_U: Floats

    @property
    def value(self) -> float:
        """The figure itself; nan if there are no rows."""
        below = float(self.below_U.sum())
        return float(self.above_U.sum()) / below if below else math.nan

    def drawn(self, weights_RU: Floats) -> Floats:
        """[R] the figure under each bootstrap draw; nan where the draw has no rows."""
        below = weights_RU @ self.below_U
        return np.divide(weights_RU @ self.above_U, below, out=np.full(len(below), np.nan), where=below > 0)


class Drawn(NamedTuple):
    """One model's figures, and their values under each draw of the users. All models share the draws (paired)."""

    value: dict[str, float]
    draws: dict[str, Floats]


def measure(scored: Scored, requests: Requests, ndcg_at: int | None = None) -> dict[str, float]:
    """All figures of one model; nan where undefined. ndcg_at: the k of NDCG@k; None: no NDCG."""
    labels, users = requests.label, requests.user_index[requests.request_of_row]
    figures = {
        "auc": pooled_auc(scored.score, labels),
        "iauc": iauc(scored.score, labels, requests.request_of_row),
        "gauc": gauc(scored.score, labels, users),
        "logloss": logloss(scored.probability, labels),
        "normalised_entropy": math.nan,
        "calibration_error": math.nan,
        "calibration_noise": math.nan,
        "calibration_ratio": math.nan,
    }
    if base := entropy(labels):
        figures["normalised_entropy"] = figures["logloss"] / base
    if len(labels):
        bins = calibration(scored.probability, labels)
        figures |= {f"calibration_{name}": getattr(bins, name) for name in ("error", "noise", "ratio")}
    if ndcg_at is not None:
        within, _ = grouped_ndcg(scored.score, labels, requests.request_of_row, ndcg_at)
        figures["ndcg"] = float(within.mean()) if len(within) else math.nan
    return figures


def bootstrap(
    scored: Mapping[str, Scored], requests: Requests, num_bootstrap: int, seed: int, ndcg_at: int
) -> dict[str, Drawn]:
    """Every model's AUC, iAUC, gAUC, NDCG and logloss under the same draws of the users."""
    user_of_request, weights_RU = draw_weights(requests, num_bootstrap, seed)
    drawn_of_model = {}
    for name, each in scored.items():
        sums = _ratios(each, requests, user_of_request, weights_RU.shape[1], ndcg_at)
        users = user_of_request[requests.request_of_row]
        drawn_of_model[name] = Drawn(
            {"auc": pooled_auc(each.score, requests.label)} | {key: one.value for key, one in sums.items()},
            {"auc": bootstrap_auc(each.score, requests.label, users, weights_RU)}
            | {key: one.drawn(weights_RU) for key, one in sums.items()},
        )
    return drawn_of_model


def differences(drawn: Mapping[str, Drawn], pairs: Sequence[tuple[str, str]]) -> dict[str, dict[str, float]]:
    """ "<first>_minus_<other>" -> the difference in each figure of `bootstrap`, with its 95 % interval."""
    rows_of_pair = {}
    for first, other in pairs:
        one, two, row = drawn[first], drawn[other], {}
        for name in one.value:
            row |= with_interval(name, one.value[name] - two.value[name], one.draws[name] - two.draws[name])
        rows_of_pair[f"{first}_minus_{other}"] = row
    return rows_of_pair


def intervals(drawn: Drawn) -> dict[str, float]:
    """The 95 % interval of each figure, as <name>_low and <name>_high."""
    figures: dict[str, float] = {}
    for name, value in drawn.value.items():
        figures |= with_interval(name, value, drawn.draws[name])
    return {name: value for name, value in figures.items() if name not in drawn.value}


def measure_slices(
    scored: Mapping[str, Scored],
    requests: Requests,
    masks: Mapping[str, Mask],
    pairs: Sequence[tuple[str, str]],
    num_bootstrap: int,
    seed: int,
) -> dict[str, dict[str, float]]:
    """Slice -> its size, every model's AUC and iAUC on its rows, iAUC's interval, and the differences of the pairs.

    Uses the draws of the whole test part, so that slices can be compared with it and with each other.
    """
    user_of_request, weights_RU = draw_weights(requests, num_bootstrap, seed)
    order = {name: np.argsort(each.score, kind="stable") for name, each in scored.items()}
    request, slices = requests.request_of_row, {}
    for name, mask in masks.items():
        row: dict[str, float] = {"requests": len(np.unique(request[mask])), "impressions": int(mask.sum())}
        row |= {"requests_ranked": 0, "users_ranked": 0}
        within: dict[str, Ratio] = {}
        for model, values in scored.items():
            rows = order[model][mask[order[model]]]  # already in order of score: cheap to sort again
            groups = grouped_auc(values.score[rows], requests.label[rows], request[rows])
            within[model] = _per_user(groups.auc, user_of_request[groups.group], weights_RU.shape[1])
            row["requests_ranked"] = len(groups.auc)
            row["users_ranked"] = len(np.unique(user_of_request[groups.group]))
            row[f"{model}_auc"] = pooled_auc(values.score[rows], requests.label[rows])
            row |= with_interval(f"{model}_iauc", within[model].value, within[model].drawn(weights_RU))
        for first, other in pairs:
            gained = within[first].drawn(weights_RU) - within[other].drawn(weights_RU)
            row |= with_interval(f"{first}_minus_{other}_iauc", within[first].value - within[other].value, gained)
        slices[name] = row
    return slices


def rankable(requests: Requests) -> Mask:
    """[R] which requests can be ranked: those with a clicked and an unclicked candidate."""
    clicks = np.bincount(requests.request_of_row, is_click(requests.label), minlength=len(requests))
    return (clicks > 0) & (clicks < np.diff(requests.row_starts))


def draw_weights(
    requests: Requests, num_bootstrap: int, seed: int
) -> tuple[npt.NDArray[np.integer], npt.NDArray[np.float64]]:
    """(each request's user in [0, U), [R, U] how often each draw holds each user)."""
    users, user_of_request = np.unique(requests.user_index, return_inverse=True)
    return user_of_request, draw_users(len(users), num_bootstrap, seed) if len(users) else np.zeros((0, 0))


def bootstrap_iauc(scores: Sequence[Floats], requests: Requests, num_bootstrap: int, seed: int) -> Floats:
    """[R] mean AUC within a request under each draw of the users. scores: [N] each; several seeds are averaged."""
    user_of_request, weights_RU = draw_weights(requests, num_bootstrap, seed)
    within = [grouped_auc(score, requests.label, requests.request_of_row) for score in scores]
    mean = np.mean([each.auc for each in within], axis=0)
    return _per_user(mean, user_of_request[within[0].group], weights_RU.shape[1]).drawn(weights_RU)


def with_interval(name: str, value: float, drawn: Floats) -> dict[str, float]:
    """A figure and the 95 % interval of its draws, as name, name_low and name_high."""
    drawn = drawn[np.isfinite(drawn)]
    low, high = np.percentile(drawn, INTERVAL) if len(drawn) else (math.nan, math.nan)
    return {name: value, f"{name}_low": float(low), f"{name}_high": float(high)}


def _ratios(
    scored: Scored, requests: Requests, user_of_request: npt.NDArray[np.integer], num_users: int, ndcg_at: int
) -> dict[str, Ratio]:
    request, labels = requests.request_of_row, requests.label
    user = user_of_request[request]
    within = grouped_auc(scored.score, labels, request)
    of_user = grouped_auc(scored.score, labels, user)
    gained, ranked = grouped_ndcg(scored.score, labels, request, ndcg_at)
    p = np.clip(np.asarray(scored.probability, np.float64), PROBABILITY_FLOOR, 1 - PROBABILITY_FLOOR)
    loss = -np.where(is_click(labels), np.log(p), np.log1p(-p))
    return {
        "iauc": _per_user(within.auc, user_of_request[within.group], num_users),
        "gauc": _per_user(of_user.auc, of_user.group, num_users, of_user.size),
        "ndcg": _per_user(gained, user_of_request[ranked], num_users),
        "logloss": _per_user(loss, user, num_users),
    }


def _per_user(
    values: Floats, user: npt.NDArray[np.integer], num_users: int, weight: npt.NDArray[Any] | None = None
) -> Ratio:
    """The weighted mean of values, each of a user, as sums over users. weight: None for equal weights."""
    weight = np.ones(len(values)) if weight is None else weight.astype(np.float64)
    sums = (np.bincount(user, part, minlength=num_users)[:num_users] for part in (values * weight, weight))
    return Ratio(*(each.astype(np.float64) for each in sums))
