"""Metrics against values worked out by hand and against slow, obvious references."""

import math
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import normalized_mutual_info_score, roc_auc_score

from training.metrics import (
    auc,
    bootstrap_auc,
    calibration,
    draw_users,
    entropy,
    gauc,
    grouped_auc,
    grouped_ndcg,
    iauc,
    logloss,
    normalised_mutual_information,
)

ROWS = st.lists(st.tuples(st.integers(0, 4), st.booleans(), st.integers(0, 3)), min_size=1, max_size=40)


def columns(rows):
    score, label, group = zip(*rows, strict=True)
    return np.array(score, float), np.array(label, float), np.array(group)


def slow_auc(scores, labels):
    """Share of (click, other) pairs in the right order, ties one half; None where there is no pair."""
    clicks, others = scores[labels > 0], scores[labels == 0]
    pairs = [(c > o) + 0.5 * (c == o) for c in clicks for o in others]
    return sum(pairs) / len(pairs) if pairs else None


def test_auc_of_a_hand_computed_case():
    # clicks .9 .4, others .4 .1: pairs (.9,.4) 1, (.9,.1) 1, (.4,.4) 1/2, (.4,.1) 1 -> 3.5 / 4
    assert auc(np.array([0.9, 0.4, 0.4, 0.1]), np.array([1, 1, 0, 0])) == 0.875


def test_iauc_and_gauc_of_a_hand_computed_case():
    # group 0: click .2 below other .8 -> 0 (2 rows); group 1: click .5, others .5 .1 -> (1/2 + 1) / 2 = .75 (3 rows);
    # group 2 has clicks only and is left out
    scores, labels = np.array([0.2, 0.8, 0.5, 0.5, 0.1, 0.3]), np.array([1, 0, 1, 0, 0, 1])
    groups = np.array([0, 0, 1, 1, 1, 2])
    assert iauc(scores, labels, groups) == 0.375  # (0 + .75) / 2
    assert gauc(scores, labels, groups) == pytest.approx(0.45)  # (2 * 0 + 3 * .75) / 5
    found = grouped_auc(scores, labels, groups)
    assert (found.num_left_out, found.group.tolist(), found.size.tolist()) == (1, [0, 1], [2, 3])


@given(ROWS)
def test_grouped_auc_equals_the_count_of_pairs(rows):
    scores, labels, groups = columns(rows)
    wanted = {int(g): slow_auc(scores[groups == g], labels[groups == g]) for g in np.unique(groups)}
    found = grouped_auc(scores, labels, groups)
    assert found.num_left_out == sum(value is None for value in wanted.values())
    kept = {g: value for g, value in wanted.items() if value is not None}
    assert found.group.tolist() == list(kept)
    np.testing.assert_allclose(found.auc, list(kept.values()))


@given(ROWS)
def test_auc_equals_that_of_scikit_learn(rows):
    scores, labels, _ = columns(rows)
    if 0 < labels.sum() < len(labels):
        assert auc(scores, labels) == pytest.approx(roc_auc_score(labels, scores))
    else:
        assert math.isnan(auc(scores, labels))


def test_no_rows_have_no_auc():
    assert math.isnan(auc(np.zeros(0), np.zeros(0)))
    assert math.isnan(iauc(np.zeros(0), np.zeros(0), np.zeros(0, int)))
    assert math.isnan(logloss(np.zeros(0), np.zeros(0)))


def test_logloss_of_a_hand_computed_case():
    # -(log .8 + log(1 - .4)) / 2
    assert logloss(np.array([0.8, 0.4]), np.array([1, 0])) == pytest.approx(-(math.log(0.8) + math.log(0.6)) / 2)


def test_logloss_of_certain_and_wrong_is_finite():
    assert math.isfinite(logloss(np.array([0.0, 1.0]), np.array([1, 0])))


def test_calibration_of_a_hand_computed_case():
    # two bins of two: (.1, .3 | 0 clicks of 2): |.2 - 0|; (.6, .8 | 1 of 2): |.7 - .5|; error .2
    found = calibration(np.array([0.1, 0.8, 0.3, 0.6]), np.array([0, 1, 0, 0]), num_bins=2)
    np.testing.assert_allclose(found.predicted, [0.2, 0.7])
    np.testing.assert_allclose(found.observed, [0.0, 0.5])
    assert found.error == pytest.approx(0.2)


@settings(max_examples=50)
@given(ROWS, st.integers(1, 30), st.randoms(use_true_random=False))
def test_calibration_counts_every_row_once_whatever_the_order(rows, num_bins, random):
    scores, labels, _ = columns(rows)
    order = list(range(len(scores)))
    random.shuffle(order)
    found, shuffled = calibration(scores / 5, labels, num_bins), calibration(scores[order] / 5, labels[order], num_bins)
    assert found.rows.sum() == len(scores)
    assert (found.observed * found.rows).sum() == pytest.approx(labels.sum())
    np.testing.assert_allclose(found.observed, shuffled.observed)


@settings(max_examples=50)
@given(ROWS, st.integers(0, 5))
def test_bootstrapped_auc_equals_the_auc_of_the_repeated_rows(rows, seed):
    scores, labels, users = columns(rows)
    weights = draw_users(4, 3, seed)
    found = bootstrap_auc(scores, labels, users, weights)
    for weight, value in zip(weights, found, strict=True):
        times = weight[users].astype(int)
        wanted = slow_auc(np.repeat(scores, times), np.repeat(labels, times))
        assert math.isnan(value) if wanted is None else value == pytest.approx(wanted)


def test_drawn_users_are_as_many_as_there_are():
    weights = draw_users(7, 5, 1)
    assert weights.shape == (5, 7)
    assert (weights.sum(1) == 7).all()
    assert (weights == draw_users(7, 5, 1)).all()


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=2, max_size=40))
def test_mutual_information_equals_that_of_scikit_learn(pairs):
    a, b = (np.array(side) for side in zip(*pairs, strict=True))
    if len(set(a)) > 1 and len(set(b)) > 1:
        assert normalised_mutual_information(a, b) == pytest.approx(normalized_mutual_info_score(a, b), abs=1e-9)


def slow_ndcg(scores, labels, k):
    """The mean over every order of the ties."""
    found = []
    for order in permutations(range(len(scores))):
        ranked = [scores[i] for i in order]
        if ranked == sorted(ranked, reverse=True):
            found.append(sum(labels[i] / math.log2(place + 2) for place, i in enumerate(order[:k])))
    best = sum(1 / math.log2(place + 2) for place in range(min(k, int(sum(labels)))))
    return np.mean(found) / best


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 1)), min_size=2, max_size=6), st.integers(1, 7))
def test_ndcg_is_the_mean_over_all_orders_of_ties(rows, k):
    scores, labels = (np.array(side, float) for side in zip(*rows, strict=True))
    found, groups = grouped_ndcg(np.r_[scores, 1.0], np.r_[labels, 1], np.r_[np.full(len(rows), 4), 9], k)
    if 0 < labels.sum() < len(labels):
        assert groups.tolist() == [4]  # group 9 is of one class
        assert found[0] == pytest.approx(slow_ndcg(scores, labels, k))
    else:
        assert not len(found)


def test_ndcg_of_a_hand_computed_case():
    # the click stands second of three: 1 / log2(3) of the best, 1; cut at 1 it gains nothing
    scores, labels, groups = np.array([3.0, 2.0, 1.0]), np.array([0, 1, 0]), np.zeros(3, int)
    assert grouped_ndcg(scores, labels, groups, 10)[0].tolist() == [pytest.approx(1 / math.log2(3))]
    assert grouped_ndcg(scores, labels, groups, 1)[0].tolist() == [0.0]


def test_the_noise_of_a_calibration_is_the_error_of_true_probabilities():
    rng = np.random.default_rng(3)
    p = rng.uniform(0.05, 0.6, 4000)
    errors = [calibration(p, rng.random(len(p)) < p).error for _ in range(60)]
    assert calibration(p, rng.random(len(p)) < p).noise == pytest.approx(np.mean(errors), rel=0.1)


def test_entropy_is_the_logloss_of_the_best_constant():
    labels = np.array([1, 0, 0, 0])
    assert entropy(labels) == pytest.approx(logloss(np.full(4, 0.25), labels))
    assert entropy(np.ones(3)) == 0.0
