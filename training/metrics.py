"""Scores and labels -> ranking and calibration metrics, vectorised by sorting; ties count one half."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from features.terms.convention import is_click

Floats = NDArray[np.floating]
Integers = NDArray[np.integer]

NUM_CALIBRATION_BINS = 20
NEWTON_STEPS = 30
NEWTON_TOLERANCE = 1e-7  # the largest step at convergence
RIDGE = 1e-3  # keeps the fit finite where the classes are separated
LOGIT_LIMIT = 30.0
PROBABILITY_FLOOR = 1e-7


def require_finite(values: Floats, what: str) -> None:
    """Raises ValueError if a value is NaN or infinite: sorting would rank it like any other."""
    num_bad = int((~np.isfinite(values)).sum())
    if num_bad:
        raise ValueError(
            f"{num_bad:,} of {len(values):,} {what} are not finite (NaN or infinite), so they cannot be ranked. The "
            "model has diverged or its weights are damaged: train it again, with a lower learning rate if it diverges."
        )


class GroupedAuc(NamedTuple):
    """AUC within groups. Groups with a single class have no AUC and are left out."""

    auc: NDArray[np.float64]  # [G], of the groups with both classes
    group: Integers  # [G] their keys, ascending
    size: Integers  # [G] their numbers of rows
    num_left_out: int

    @property
    def mean(self) -> float:
        """Mean over groups; nan if there are none."""
        return float(self.auc.mean()) if self.auc.size else float("nan")

    @property
    def weighted_mean(self) -> float:
        """Mean weighted by the groups' numbers of rows; nan if there are none."""
        return float(np.average(self.auc, weights=self.size)) if self.auc.size else float("nan")


def auc(scores: Floats, labels: Floats) -> float:
    """P(score of a click > score of a non-click) + P(equal) / 2; nan if a class is absent."""
    return grouped_auc(scores, labels, np.zeros(len(labels), np.int64)).mean


def iauc(scores: Floats, labels: Floats, requests: Integers) -> float:
    """Mean AUC within a request; requests with a single class are left out."""
    return grouped_auc(scores, labels, requests).mean


def gauc(scores: Floats, labels: Floats, users: Integers) -> float:
    """Mean AUC within a user, weighted by the user's impressions; users with a single class are left out."""
    return grouped_auc(scores, labels, users).weighted_mean


def grouped_ndcg(scores: Floats, labels: Floats, groups: Integers, k: int) -> tuple[NDArray[np.float64], Integers]:
    """([G] NDCG@k within each group, [G] the groups' keys), of the groups with both classes.

    A click gains 1, discounted by log2(1 + place). Tied rows each gain the click share of the tie, so that a constant
    score gets the expected NDCG of a random order, whatever the order of the rows.
    """
    if len(labels) == 0:
        return np.zeros(0), np.zeros(0, np.int64)
    require_finite(scores, "scores")
    order = np.lexsort((-np.asarray(scores), groups))
    score, group, clicked = np.asarray(scores)[order], np.asarray(groups)[order], is_click(labels)[order]
    new_group = np.concatenate([[True], group[1:] != group[:-1]])
    starts = np.flatnonzero(new_group)
    sizes = np.diff(starts, append=len(group))
    place = np.arange(len(group)) - np.repeat(starts, sizes)
    gain = _mean_over_runs(clicked.astype(np.float64), new_group | np.concatenate([[True], score[1:] != score[:-1]]))
    discount = np.where(place < k, 1 / np.log2(2.0 + place), 0.0)
    gained = np.add.reduceat(gain * discount, starts)
    clicks = np.add.reduceat(clicked.astype(np.int64), starts)
    both = (clicks > 0) & (clicks < sizes)
    most = np.cumsum(1 / np.log2(2.0 + np.arange(k)))[np.minimum(clicks[both], k) - 1]
    return gained[both] / most, group[starts][both]


def grouped_auc(scores: Floats, labels: Floats, groups: Integers) -> GroupedAuc:
    """AUC within each group by mean ranks: (sum of the clicks' ranks - P (P + 1) / 2) / (P N)."""
    if len(labels) == 0:
        return GroupedAuc(np.zeros(0), np.zeros(0, np.int64), np.zeros(0, np.int64), 0)
    require_finite(scores, "scores")
    order = np.lexsort((scores, groups))
    score, group, clicked = np.asarray(scores)[order], np.asarray(groups)[order], is_click(labels)[order]
    new_group = np.concatenate([[True], group[1:] != group[:-1]])
    starts = np.flatnonzero(new_group)
    sizes = np.diff(starts, append=len(group))
    within = (np.arange(len(group)) - np.repeat(starts, sizes)).astype(np.float64)
    ranks = _mean_over_runs(within + 1.0, new_group | np.concatenate([[True], score[1:] != score[:-1]]))
    clicks = np.add.reduceat(clicked.astype(np.float64), starts)
    others = sizes - clicks
    both = (clicks > 0) & (others > 0)
    rank_sums = np.add.reduceat(ranks * clicked, starts)[both]
    clicks, others = clicks[both], others[both]
    values = (rank_sums - clicks * (clicks + 1) / 2) / (clicks * others)
    return GroupedAuc(values, group[starts][both], sizes[both], int((~both).sum()))


def logloss(probabilities: Floats, labels: Floats) -> float:
    """Mean negative log likelihood; nan if there are no rows."""
    if len(labels) == 0:
        return float("nan")
    require_finite(probabilities, "probabilities")
    p = np.clip(np.asarray(probabilities, np.float64), PROBABILITY_FLOOR, 1 - PROBABILITY_FLOOR)
    return float(-np.mean(np.where(is_click(labels), np.log(p), np.log1p(-p))))


def entropy(labels: Floats) -> float:
    """Logloss of the best constant, the denominator of normalised entropy; nan if there are no rows."""
    share = float(is_click(labels).mean()) if len(labels) else float("nan")
    return 0.0 if share in (0.0, 1.0) else float(-share * np.log(share) - (1 - share) * np.log1p(-share))


class Calibration(NamedTuple):
    """Reliability by bins with equal numbers of rows."""

    predicted: NDArray[np.float64]  # [K] mean probability
    observed: NDArray[np.float64]  # [K] share of clicks
    rows: Integers  # [K]

    @property
    def error(self) -> float:
        """Expected calibration error: mean over rows of |predicted - observed| of their bin."""
        return float(np.average(np.abs(self.predicted - self.observed), weights=self.rows))

    @property
    def noise(self) -> float:
        """The expected calibration error of true probabilities on so few rows: mean of E|observed - p| over bins."""
        return float(
            np.average(np.sqrt(2 / np.pi * self.predicted * (1 - self.predicted) / self.rows), weights=self.rows)
        )

    @property
    def ratio(self) -> float:
        """Predicted over observed clicks; 1 is calibrated on average, nan without a click."""
        clicks = float(self.observed @ self.rows)
        return float(self.predicted @ self.rows) / clicks if clicks else float("nan")


def calibration(probabilities: Floats, labels: Floats, num_bins: int = NUM_CALIBRATION_BINS) -> Calibration:
    """Rows in ascending order of probability, cut into num_bins bins of equal size (fewer if there are few rows).

    Equal probabilities fall into one bin, so that the result does not depend on the order of rows.
    """
    if len(labels) == 0:
        raise ValueError("Calibration of no rows: give at least one prediction.")
    require_finite(probabilities, "probabilities")
    order = np.argsort(probabilities, kind="stable")
    p = np.asarray(probabilities, np.float64)[order]
    clicked = is_click(labels)[order].astype(np.float64)
    cuts = np.unique(np.searchsorted(p, p[np.arange(num_bins) * len(p) // num_bins], side="left"))
    rows = np.diff(cuts, append=len(p))
    return Calibration(np.add.reduceat(p, cuts) / rows, np.add.reduceat(clicked, cuts) / rows, rows)


def bootstrap_auc(
    scores: Floats, labels: Floats, users: Integers, weights_RU: NDArray[np.float64]
) -> NDArray[np.float64]:
    """[R] AUC of all rows in each of R bootstrap draws of the users: one sort, then weighted sums.

    users: in [0, U). weights_RU: how often each draw holds each user.
    """
    require_finite(scores, "scores")
    order = np.argsort(scores, kind="stable")
    score, user, clicked = np.asarray(scores)[order], np.asarray(users)[order], is_click(labels)[order]
    click_users, other_users = user[clicked], user[~clicked]
    below = np.searchsorted(score[~clicked], score[clicked], side="left")
    upto = np.searchsorted(score[~clicked], score[clicked], side="right")  # ties count one half
    values = np.empty(len(weights_RU))
    passed = np.zeros(len(other_users) + 1)
    for draw, weight_U in enumerate(weights_RU):  # one draw at a time: rows x draws would not fit in memory
        np.cumsum(weight_U[other_users], out=passed[1:])
        clicks = weight_U[click_users]
        total = clicks.sum() * passed[-1]
        values[draw] = clicks @ (passed[below] + passed[upto]) / 2 / total if total else np.nan
    return values


def draw_users(num_users: int, num_draws: int, seed: int) -> NDArray[np.float64]:
    """[R, U] bootstrap counts: each row draws U users with replacement."""
    return (
        np.random.default_rng(seed).multinomial(num_users, np.full(num_users, 1 / num_users), num_draws).astype(float)
    )


def normalised_mutual_information(a: Integers, b: Integers) -> float:
    """I(a; b) / mean(H(a), H(b)) of two labelings of the same things; 0 where either is constant."""
    _, a = np.unique(a, return_inverse=True)
    _, b = np.unique(b, return_inverse=True)
    joint = np.zeros((a.max() + 1, b.max() + 1))
    np.add.at(joint, (a, b), 1.0)
    joint /= joint.sum()
    in_a, in_b = joint.sum(1), joint.sum(0)
    entropy = -(in_a * np.log(in_a)).sum() - (in_b * np.log(in_b)).sum()
    occurs = joint > 0
    information = (joint[occurs] * np.log(joint[occurs] / np.outer(in_a, in_b)[occurs])).sum()
    return float(2 * information / entropy) if entropy > 0 else 0.0


def _mean_over_runs(values: NDArray[np.float64], starts_here: NDArray[np.bool_]) -> NDArray[np.float64]:
    starts = np.flatnonzero(starts_here)
    lengths = np.diff(starts, append=len(values))
    return np.repeat(np.add.reduceat(values, starts) / lengths, lengths)


def fit_logistic(features: Floats, labels: Floats, ridge: float = RIDGE) -> NDArray[np.float64]:
    """[1 + K] intercept and slopes of P(click) = sigmoid(intercept + features @ slopes), by Newton's method.

    features: [N], or [N, K] of about the same scale. ridge: ridge / 2 * |slopes|^2 is added to the summed loss.
    Returns zeros if there are no rows.
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


def sigmoid(logits: Floats) -> NDArray[np.float64]:
    """Probabilities, in double precision."""
    return 1 / (1 + np.exp(-np.clip(np.asarray(logits, np.float64), -LOGIT_LIMIT, LOGIT_LIMIT)))
