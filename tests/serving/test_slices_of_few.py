"""A slice refuses a better model only if it holds enough users for an interval."""

import numpy as np
import pytest

from contracts.params import load_params
from serving.promoting.compare import weigh
from tests.clones import ROOT
from tests.training.test_slices_and_measure import requests as of_two_candidates
from training.judging.measure import Scored
from training.judging.verdict import MIN_USERS

EACH = 60
"""Requests of a user."""


def scored(share_U: np.ndarray) -> Scored:
    """A model that orders this share of each user's requests rightly, of two candidates the first is clicked."""
    right = np.arange(EACH)[None, :] < np.round(share_U * EACH)[:, None]
    score = np.stack([np.where(right, 0.9, 0.1), np.full(right.shape, 0.5)], axis=-1).ravel()
    return Scored(score, score)


@pytest.mark.parametrize(("num_heavy", "is_promoted"), [(1, True), (MIN_USERS - 1, True), (MIN_USERS, False)])
def test_a_slice_of_few_users_refuses_nothing(num_heavy: int, is_promoted: bool) -> None:
    rules = load_params(ROOT / "params.yaml")["promote"].model_copy(update={"min_requests": EACH, "num_bootstrap": 100})
    heavy = np.arange(200) < num_heavy
    users = np.repeat(np.arange(200), EACH)
    found = of_two_candidates(users, np.arange(len(users)))
    of_both = {
        "candidate": scored(np.where(heavy, 0.5, 0.9)),
        "champion": scored(np.where(heavy, 0.8, 0.5)),
    }
    masks = {"history_500_up": np.repeat(heavy[users], 2)}
    decided = weigh(of_both, found, masks, rules, ("MoS", "DIN"))
    assert decided.found["slices"]["history_500_up"]["users_ranked"] == num_heavy
    assert decided.promoted is is_promoted, decided.reason
