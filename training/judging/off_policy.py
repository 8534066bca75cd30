"""Logged clicks and the logging policy's propensities -> the expected click rate of another policy.

A figure over a log depends on the policy that chose what to show. Where the propensity of each shown candidate is
known (as in the simulator's truth), importance weights of target / propensity estimate it for another policy.
Source: Horvitz and Thompson 1952; Swaminathan and Joachims 2015 for the self-normalised estimate.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from contracts.schema import FIRST_INDEX
from features.terms.convention import is_click
from training.judging.measure import Ratio, Scored, draw_weights, with_interval
from training.requests.reader import Requests

BEST_SHARE = 0.2
"""A model's policy shows the best-scored share of all (request, item) pairs: this share."""
COLUMNS = ("impression_id", "item_id", "propensity")

Floats = npt.NDArray[np.floating]


class Estimate(NamedTuple):
    """The mean reward under a target policy by two estimators, and the effective sample size behind it."""

    ips: float  # inverse propensity score: unbiased, high variance
    snips: float  # self-normalised: a little bias, far less variance, within the rewards' range
    effective_share: float  # (sum of weights)^2 / (rows * sum of their squares): 1 if all weights are equal


def estimate(reward: Floats, target: Floats, propensity: Floats) -> Estimate:
    """Mean reward if the target policy had drawn the actions.

    target, propensity: [N] probability of each row's action under the target policy and under the logging policy.
    Raises ValueError if a propensity is not above 0.
    """
    weight = weights(target, propensity)
    total = float(weight.sum())
    if not total:
        return Estimate(0.0 if len(weight) else math.nan, math.nan, 0.0)
    return Estimate(
        ips=float((weight * reward).mean()),
        snips=float((weight * reward).sum()) / total,
        effective_share=total**2 / (len(weight) * float((weight**2).sum())),
    )


def weights(target: Floats, propensity: Floats) -> npt.NDArray[np.float64]:
    """[N] target / propensity."""
    num_bad = int((~(np.asarray(propensity) > 0)).sum())
    if num_bad:
        raise ValueError(
            f"{num_bad:,} of {len(propensity):,} propensities are not above 0, although their rows were shown: the "
            "logging policy's probabilities are wrong, or were rounded away."
        )
    return np.asarray(target, np.float64) / np.asarray(propensity, np.float64)


def off_policy(
    data: Path, requests: Requests, scored: Mapping[str, Scored], num_bootstrap: int, seed: int
) -> dict[str, Any] | None:
    """Model -> estimated click rate of its best-scored pairs if all items were shown equally often; None where no
    propensities are known.

    A model's policy draws evenly from the best-scored BEST_SHARE of all (request, item) pairs. `logged`: the raw click
    rate of the same rows, which is biased towards what the logging policy shows.
    """
    propensity = read_propensities(data, requests)
    if propensity is None or not len(requests):
        return None
    known = np.isfinite(propensity)
    if not known.any():
        return None
    user_of_request, weights_RU = draw_weights(requests, num_bootstrap, seed)
    user = user_of_request[requests.request_of_row][known]
    clicked = is_click(requests.label)[known].astype(np.float64)
    even = weights(np.ones(known.sum()), propensity[known])
    report: dict[str, Any] = {"share_of_rows_known": float(known.mean()), "best_share": BEST_SHARE, "models": {}}
    for name, each in scored.items():
        chosen = best(each.score[known], even)
        weight = even * chosen
        sums = (np.bincount(user, part, minlength=weights_RU.shape[1]) for part in (weight * clicked, weight))
        ratio = Ratio(*(each.astype(np.float64) for each in sums))
        report["models"][name] = with_interval("snips", ratio.value, ratio.drawn(weights_RU)) | {
            "effective_share": estimate(clicked, chosen, propensity[known]).effective_share,
            "logged": float((chosen * clicked).sum() / chosen.sum()),
        }
    return report


def best(score: Floats, weight: Floats) -> npt.NDArray[np.float64]:
    """[N] 1 for the best-scored rows up to BEST_SHARE of the total weight, 0 elsewhere; ties are included."""
    order = np.argsort(-np.asarray(score, np.float64), kind="stable")
    cumulative = np.cumsum(np.asarray(weight)[order])
    last = int(np.searchsorted(cumulative, BEST_SHARE * cumulative[-1]))
    return (score >= score[order[min(last, len(order) - 1)]]).astype(np.float64)


def read_propensities(data: Path, requests: Requests) -> npt.NDArray[np.float64] | None:
    """[N] the propensity of each shown candidate; nan where the truth lacks it.

    None if no table of truth/ has the columns impression_id, item_id and propensity.
    """
    for path in sorted((data / "truth").glob("*.parquet")) if (data / "truth").is_dir() else ():
        if set(COLUMNS) <= set(pq.read_schema(path).names):
            return _match(data, requests, pq.read_table(path, columns=list(COLUMNS)))
    return None


def _match(data: Path, requests: Requests, truth: pa.Table) -> npt.NDArray[np.float64]:
    named = pq.read_table(data / "impressions" / "requests.parquet").sort_by("request_index")["impression_id"]
    items = pq.read_table(data / "user_histories" / "vocabulary.parquet", columns=["item_id"])["item_id"]
    request = _places(truth["impression_id"], named)
    item = _places(truth["item_id"], items)
    in_log = (request >= 0) & (item >= 0)
    num_items = len(items) + 1
    keys, first = np.unique(request[in_log] * num_items + item[in_log], return_index=True)
    values = np.r_[truth["propensity"].to_numpy().astype(np.float64)[in_log][first], np.nan]
    row_keys = requests.request_index[requests.request_of_row].astype(np.int64) * num_items
    row_keys += requests.item_index - FIRST_INDEX
    place = np.searchsorted(keys, row_keys)
    is_known = place < len(keys)
    is_known[is_known] = keys[place[is_known]] == row_keys[is_known]
    return values[np.where(is_known, place, len(values) - 1)]


def _places(names: pa.ChunkedArray, known: pa.ChunkedArray) -> npt.NDArray[np.int64]:
    options = pc.SetLookupOptions(value_set=known.combine_chunks())
    return pc.fill_null(pc.call_function("index_in", [names], options), -1).to_numpy().astype(np.int64)
