"""Clicks on what a logging policy showed, and how likely it was to show it -> what another policy would have got.

A log holds what was shown: a figure over it is a figure under whoever chose what to show. Where the propensity of each
shown candidate is known (a simulator's truth), weights of target / propensity make it a figure under another policy.
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
"""A model's policy: any pair of request and item that it scores among the best so many."""
COLUMNS = ("impression_id", "item_id", "propensity")

Floats = npt.NDArray[np.floating]


class Estimate(NamedTuple):
    """The mean reward under a target policy, by two estimators, and how much of the log speaks for it."""

    ips: float  # unbiased; varies with the weights
    snips: float  # divided by the mean weight instead of 1: a little bias, far less variance; in the rewards' range
    effective_share: float  # (sum of weights)^2 / (rows * sum of their squares): 1 where all weigh the same


def estimate(reward: Floats, target: Floats, propensity: Floats) -> Estimate:
    """Mean reward if actions had been drawn by the target policy.

    target, propensity: [N] how likely the target policy, and the one that was logged, show the action of each row.
    Raises ValueError where a propensity is not above 0: of what is never shown a log says nothing.
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
    """Model -> the click rate of what it scores best, were every item shown as often as any other; None where no
    propensities are known.

    A model's policy draws evenly from the pairs of request and item that it scores among the best BEST_SHARE of all
    pairs. `logged`: the click rate of the same rows as they were shown, which favours what the logging policy favours.
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
    found: dict[str, Any] = {"share_of_rows_known": float(known.mean()), "best_share": BEST_SHARE, "models": {}}
    for name, each in scored.items():
        chosen = best(each.score[known], even)
        weight = even * chosen
        sums = (np.bincount(user, part, minlength=weights_RU.shape[1]) for part in (weight * clicked, weight))
        ratio = Ratio(*(each.astype(np.float64) for each in sums))
        found["models"][name] = with_interval("snips", ratio.value, ratio.drawn(weights_RU)) | {
            "effective_share": estimate(clicked, chosen, propensity[known]).effective_share,
            "logged": float((chosen * clicked).sum() / chosen.sum()),
        }
    return found


def best(score: Floats, weight: Floats) -> npt.NDArray[np.float64]:
    """[N] 1 where a row is among the best BEST_SHARE of all weight, 0 elsewhere; rows that tie are in together."""
    order = np.argsort(-np.asarray(score, np.float64), kind="stable")
    held = np.cumsum(np.asarray(weight)[order])
    last = int(np.searchsorted(held, BEST_SHARE * held[-1]))
    return (score >= score[order[min(last, len(order) - 1)]]).astype(np.float64)


def read_propensities(data: Path, requests: Requests) -> npt.NDArray[np.float64] | None:
    """[N] how likely each shown candidate was to be shown; nan where the truth does not hold it.

    None where no table of truth/ has the columns impression_id, item_id and propensity.
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
    held = (request >= 0) & (item >= 0)
    num_items = len(items) + 1
    keys, first = np.unique(request[held] * num_items + item[held], return_index=True)
    values = np.r_[truth["propensity"].to_numpy().astype(np.float64)[held][first], np.nan]
    wanted = requests.request_index[requests.request_of_row].astype(np.int64) * num_items
    wanted += requests.item_index - FIRST_INDEX
    place = np.searchsorted(keys, wanted)
    found = place < len(keys)
    found[found] = keys[place[found]] == wanted[found]
    return values[np.where(found, place, len(values) - 1)]


def _places(names: pa.ChunkedArray, known: pa.ChunkedArray) -> npt.NDArray[np.int64]:
    options = pc.SetLookupOptions(value_set=known.combine_chunks())
    return pc.fill_null(pc.call_function("index_in", [names], options), -1).to_numpy().astype(np.int64)
