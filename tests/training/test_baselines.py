"""What the baselines say."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from features.encoding.as_of import AsOfCounter
from features.encoding.counters import Counters
from tests.training.contexts import no_contexts
from training.judging.baselines import logistic, popularity
from training.metrics import fit_logistic, sigmoid
from training.requests.reader import Requests


def test_the_logistic_curve_equals_that_of_scikit_learn():
    rng = np.random.default_rng(1)
    feature = rng.normal(size=500)
    labels = (rng.random(500) < sigmoid(0.7 * feature - 1)).astype(float)
    wanted = LogisticRegression(C=1e3).fit(feature[:, None], labels)
    assert fit_logistic(feature, labels).tolist() == pytest.approx([wanted.intercept_[0], wanted.coef_[0, 0]], abs=1e-3)


def test_the_logistic_regression_of_several_features_equals_that_of_scikit_learn():
    rng = np.random.default_rng(2)
    features = rng.normal(size=(400, 3))
    labels = (rng.random(400) < sigmoid(features @ [1, -2, 0] + 0.5)).astype(float)
    wanted = LogisticRegression(C=1 / 5.0, tol=1e-9).fit(
        features, labels
    )  # its intercept is not shrunk: close, not equal
    found = fit_logistic(features, labels, ridge=5.0)
    assert found[1:].tolist() == pytest.approx(wanted.coef_[0].tolist(), abs=0.02)


def test_a_logistic_regression_on_scalars_ranks_by_the_predictive_scalar():
    rng = np.random.default_rng(3)
    train, test = rng.normal(5, [1, 10, 0], (2000, 3)), rng.normal(5, [1, 10, 0], (100, 3))
    labels = (rng.random(2000) < sigmoid(2 * (train[:, 0] - 5))).astype(float)
    logits = logistic(train, labels, test)
    assert np.corrcoef(logits, test[:, 0])[0, 1] > 0.99
    assert logistic(train[:0], labels[:0], test).tolist() == [0.0] * 100


def test_no_rows_fit_an_even_chance():
    assert fit_logistic(np.zeros(0), np.zeros(0)).tolist() == [0.0, 0.0]


def test_popularity_counts_clicks_in_the_window_strictly_before_the_lag():
    second = 1_000_000
    times = np.array([10, 20, 30]) * second
    of_item = AsOfCounter.from_rows(np.zeros(3, np.int64), times, np.array([1, 2, 3]), np.array([1, 2, 3]))
    counters = Counters(of_item, of_item, of_item)
    at = np.array([30, 31, 40, 45]) * second
    requests = Requests(
        np.arange(4),
        np.zeros(4, int),
        at,
        np.zeros(4, int),
        np.zeros(4, int),
        np.arange(5),
        np.full(4, 2),
        np.zeros(4),
        **no_contexts(4),
    )
    # lag 10: cuts at 20, 21, 30, 35: clicks strictly before; windows of 15 s begin at 5, 6, 15, 20 inclusive
    assert popularity(requests, counters, 10, None).tolist() == [1, 2, 2, 3]
    assert popularity(requests, counters, 10, 15).tolist() == [1, 2, 1, 2]
    unknown = Requests(**{**vars(requests), "item_index": np.full(4, 1)})
    assert popularity(unknown, counters, 10, None).tolist() == [0, 0, 0, 0]
