"""Requests and their counters -> scores of the simple models that stand beside the fitted ones."""

from pathlib import Path

import numpy as np
import numpy.typing as npt

from features.encoding.counters import Counters
from features.encoding.encode import FeatureSpec
from training.judging.baselines import logistic, popularity
from training.judging.measure import Scored
from training.judging.trees import is_installed, trees
from training.metrics import fit_logistic, sigmoid
from training.model.params import EvaluateParams
from training.requests.batches import read_scalars
from training.requests.reader import BareRequests, Cuts, Events, Requests, with_candidates

SIMPLE_REQUESTS = 20_000
"""The logistic regression and the trees are fitted on this many of the latest requests of the train part."""


def score_baselines(
    test: Requests, validation: Requests, counters: Counters, spec: FeatureSpec, evaluate: EvaluateParams
) -> dict[str, Scored]:
    """Popularity, and chance (one score for all: AUC .5). Probabilities: a logistic fit on the validation part."""
    window = evaluate.popularity_window_s
    before, now = (popularity(part, counters, spec.clicks_lag_s, window) for part in (validation, test))
    intercept, slope = fit_logistic(np.log1p(before), validation.label)
    base, _ = fit_logistic(np.zeros(len(before)), validation.label)
    return {
        "popularity": Scored(now, sigmoid(intercept + slope * np.log1p(now))),
        "random": Scored(np.zeros(len(now)), np.full(len(now), sigmoid(np.array(base)))),
    }


def score_simple(
    data: Path,
    cuts: Cuts,
    requests: BareRequests,
    events: Events,
    counters: Counters,
    spec: FeatureSpec,
    test: npt.NDArray[np.float32],
    num_threads: int,
) -> dict[str, Scored]:
    """Models of the scalars alone, fitted on the latest train requests: a logistic regression, and trees if LightGBM
    is installed. test: the scalars of the test rows."""
    latest = cuts.part(requests, "train")
    latest = with_candidates(data, latest.take(np.arange(max(0, len(latest) - SIMPLE_REQUESTS), len(latest))))
    fitted_on = read_scalars(spec, events, latest, counters), latest.label
    logits = {"logistic": logistic(*fitted_on, test)}
    if is_installed():
        watched = cuts.part(requests, "validation")
        watched = with_candidates(data, watched.take(np.arange(min(len(watched), SIMPLE_REQUESTS // 4))))
        by_trees = trees(fitted_on, (read_scalars(spec, events, watched, counters), watched.label), test, num_threads)
        logits |= {} if by_trees is None else {"trees": by_trees}
    return {name: Scored(values, sigmoid(values)) for name, values in logits.items()}
