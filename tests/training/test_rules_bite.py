"""The rules as params.yaml ships them refuse models that they once let pass."""

from pathlib import Path

import numpy as np
import pytest

from contracts.params import PARAMS, load_params
from tests.training.test_slices_and_measure import requests
from training.judging.measure import Scored, bootstrap, differences, intervals, measure, rankable
from training.judging.verdict import judge
from training.metrics import sigmoid
from training.requests.reader import Requests

RULES = load_params(Path(__file__).parents[2] / PARAMS)["evaluate"]
NUM_USERS, NUM_REQUESTS, NUM_CANDIDATES = 60, 3000, 5


@pytest.fixture(scope="module")
def log():
    """(requests, the true logit of a click of each row): clicks are drawn from it."""
    rng = np.random.default_rng(4)
    logit = rng.normal(-0.6, 1.2, NUM_REQUESTS * NUM_CANDIDATES)
    clicked = rng.random(len(logit)) < sigmoid(logit)
    found = requests(rng.integers(0, NUM_USERS, NUM_REQUESTS), np.arange(NUM_REQUESTS))
    rows = {
        "row_starts": np.arange(NUM_REQUESTS + 1) * NUM_CANDIDATES,
        "item_index": np.full(len(logit), 2),
        "label": clicked.astype(np.float32),
    }
    return Requests(**{**vars(found), **rows}), logit


def verdict(log, mos, popularity=None):
    found, logit = log
    share = np.full(len(logit), found.label.mean())
    chance = Scored(np.zeros(len(logit)), share)
    weak = np.random.default_rng(1).random(len(logit)) if popularity is None else popularity
    scored = {"mos": Scored(mos, sigmoid(mos)), "popularity": Scored(weak, share), "random": chance}
    drawn = bootstrap(scored, found, RULES.num_bootstrap, 1, RULES.ndcg_at)
    models = {name: measure(each, found, RULES.ndcg_at) | intervals(drawn[name]) for name, each in scored.items()}
    between = differences(drawn, [("mos", "popularity"), ("mos", "random")])
    ranked = rankable(found)
    test = {
        "num_requests": len(found),
        "num_requests_ranked": int(ranked.sum()),
        "num_users_ranked": len(np.unique(found.user_index[ranked])),
    }
    return judge("mos", models, between, test, None, RULES)


def test_true_probabilities_pass(log):
    assert verdict(log, log[1])["state"] == "passed"


@pytest.mark.parametrize("shift", [-0.6, 0.6])
def test_odds_that_are_off_by_less_than_two_do_not_pass(log, shift):
    """An order that is perfect, probabilities that are not: .11 in error, where the rule once was .2."""
    found = verdict(log, log[1] + shift)
    assert found["state"] == "failed"
    assert "evaluate.max_calibration_error is 0.05" in found["reasons"][0]
    assert len(found["reasons"]) == 1


def test_probabilities_that_are_twice_too_sure_do_not_pass(log):
    found = verdict(log, 3 * log[1])
    assert "calibration error" in found["reasons"][0]


def test_a_little_above_popularity_is_not_enough(log):
    """Above popularity beyond doubt, by .01 AUC: the rule once asked for more than nothing."""
    noise = np.random.default_rng(2).normal(size=len(log[1]))
    found = verdict(log, log[1], popularity=log[1] + 0.3 * noise)
    assert [reason.split(":")[0] for reason in found["reasons"]] == ["MoS is not shown to be better than popularity"]
    assert "evaluate.min_auc_over_popularity, 0.02" in found["reasons"][0]
