"""L_MI and the router's sessions."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from training.fitting.losses import listwise_loss
from training.model.batch import History
from training.model.information import mutual_information_loss
from training.model.router import session_mean


def history_of(items, sessions, mask):
    none = torch.zeros_like(items)
    return History(items, none, none, none, sessions, mask, none[:, 0])


def one_hot(themes, num_themes=2):
    return torch.nn.functional.one_hot(torch.tensor(themes), num_themes).double()


def loss(themes, sessions, items=None, mask=None, num_themes=2):
    themes, sessions = torch.tensor(themes), torch.tensor(sessions)
    items = torch.arange(themes.numel()).view_as(themes) if items is None else torch.tensor(items)
    mask = torch.ones_like(themes, dtype=torch.bool) if mask is None else torch.tensor(mask)
    routing = torch.zeros(int(items.max()) + 1, num_themes).double()
    routing[items.flatten()] = one_hot(themes.flatten().tolist(), num_themes)
    return mutual_information_loss(routing[items], history_of(items, sessions, mask)).item()


def test_one_theme_a_session_reaches_the_bound():
    # each session of two events has one theme, both themes equally used: I = log 2
    assert math.isclose(loss([[0, 0, 1, 1]], [[5, 5, 6, 6]]), -math.log(2), rel_tol=1e-6)


def test_independent_neighbours_carry_no_information():
    # pairs at distance 1: (0,0), (0,1), (1,1), (1,0): J is uniform, I = 0
    assert abs(loss([[0, 0], [0, 1], [1, 1], [1, 0]], [[1, 1], [2, 2], [3, 3], [4, 4]])) < 1e-6


def test_one_theme_for_everything_carries_no_information():
    assert abs(loss([[0, 0, 0, 0]], [[1, 1, 1, 1]])) < 1e-6


def test_neighbours_of_other_sessions_repeated_items_and_padding_are_left_out():
    base = loss([[0, 0, 1, 1]], [[5, 5, 6, 6]])
    # a pair across sessions (1 -> 0) would lower it
    assert loss([[0, 0, 1, 1, 0]], [[5, 5, 6, 6, 7]]) == base
    # a repeated item pairs with itself only
    assert loss([[0, 0, 1, 1], [0, 1, 1, 0]], [[5, 5, 6, 6], [9, 9, 8, 8]], [[0, 1, 2, 3], [7, 7, 8, 8]]) == base
    masked = [[True] * 4, [False] * 4]
    assert loss([[0, 0, 1, 1], [0, 1, 1, 0]], [[5, 5, 6, 6], [9, 9, 8, 8]], mask=masked) == base


def test_neighbours_stand_one_or_three_apart():
    # only the pair (0, 3) is of different items: I(0; 1) of J = [[0, .5], [.5, 0]] is log 2
    found = loss([[0, 0, 0, 1]], [[1, 1, 1, 1]], [[4, 4, 4, 9]])
    # pairs: (2, 3) at distance 1 and (0, 3) at distance 3, both (0, 1)
    assert math.isclose(found, -math.log(2), rel_tol=1e-6)


def test_no_pairs_give_zero_and_a_finite_gradient():
    routing = torch.full((1, 4, 3), 1 / 3, dtype=torch.float64, requires_grad=True)
    same = torch.ones(1, 4, dtype=torch.int64)
    value = mutual_information_loss(routing, history_of(same, torch.zeros_like(same), same.bool()))
    value.backward()
    assert value.item() == 0.0
    assert torch.isfinite(routing.grad).all()


def written_out(routing, history):
    """L_MI pair by pair, as autograd differentiates it."""
    item, session, mask = history.item_index_UL, history.session_UL, history.mask_UL
    joint = torch.zeros(routing.shape[-1], routing.shape[-1], dtype=routing.dtype)
    for user in range(len(item)):
        for distance in (1, 3):
            for early in range(item.shape[1] - distance):
                pair = [early, early + distance]
                is_counted = mask[user, pair].all() and session[user, pair].unique().numel() == 1
                if is_counted and item[user, pair].unique().numel() == 2:
                    first, second = routing[user, pair]
                    joint = joint + first.outer(second) + second.outer(first)
    joint = joint / joint.sum()
    marginal = joint.sum(1)
    return -(joint * torch.log((joint + 1e-9) / (marginal.outer(marginal) + 1e-9))).sum()


@pytest.mark.parametrize("length", [2, 3, 4, 9])
def test_the_information_and_its_gradient_are_those_of_the_formula(length):
    generator = torch.Generator().manual_seed(length)
    routing = torch.rand(3, length, 4, generator=generator, dtype=torch.float64).softmax(-1).requires_grad_()
    sessions = torch.randint(0, 2, (3, length), generator=generator).sort(1).values
    items, mask = torch.randint(0, 5, (3, length), generator=generator), torch.ones(3, length, dtype=torch.bool)
    mask[0, 0] = False
    history = history_of(items, sessions, mask)
    (found, expected) = mutual_information_loss(routing, history), written_out(routing, history)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    gradients = [torch.autograd.grad(each, routing)[0] for each in (found, expected)]
    torch.testing.assert_close(*gradients, rtol=0, atol=1e-12)


def test_a_session_mean_is_the_mean_over_its_own_events_only():
    code = torch.tensor([[[9.0], [1.0], [3.0], [10.0], [4.0]]])
    session = torch.tensor([[0, 0, 0, 1, 2]])
    mask = torch.tensor([[False, True, True, True, True]])
    found = session_mean(code, session, mask)[0, 1:, 0]
    assert found.tolist() == [2.0, 2.0, 10.0, 4.0]


def listwise(logits, labels, requests, num_requests=None):
    logits = torch.tensor(logits, dtype=torch.float64, requires_grad=True)
    number = max(requests) + 1 if num_requests is None else num_requests
    found = listwise_loss(logits, torch.tensor(labels, dtype=torch.float64), torch.tensor(requests), number)
    found.backward()
    return found.item(), logits.grad.numpy()


lists = st.lists(
    st.lists(st.tuples(st.floats(-30, 30), st.booleans()), min_size=1, max_size=5), min_size=1, max_size=5
)  # fmt: skip


@given(lists)
def test_the_listwise_loss_is_the_mean_surprise_of_a_request_s_clicks(requests):
    surprises = []
    for request in requests:
        logits = np.array([logit for logit, _ in request])
        clicked = np.array([hit for _, hit in request])
        log_share = logits - logits.max() - np.log(np.exp(logits - logits.max()).sum())
        if clicked.any():
            surprises.append(-log_share[clicked].mean())
    flat = [pair for request in requests for pair in request]
    owner = [number for number, request in enumerate(requests) for _ in request]
    found, gradient = listwise([x for x, _ in flat], [float(y) for _, y in flat], owner, len(requests))
    assert found == pytest.approx(np.mean(surprises) if surprises else 0.0, abs=1e-9)
    assert np.isfinite(gradient).all()


def test_a_request_without_a_click_teaches_the_listwise_loss_nothing():
    _, gradient = listwise([1.0, 2.0, 0.5, 0.1], [0, 0, 1, 0], [0, 0, 1, 1])
    assert gradient[:2].tolist() == [0, 0]
    assert gradient[2] < 0 < gradient[3]


def test_the_listwise_loss_does_not_see_what_a_request_s_candidates_share():
    base, _ = listwise([1.0, 2.0, 0.5, 0.1], [0, 1, 1, 0], [0, 0, 1, 1])
    shifted, _ = listwise([1001.0, 1002.0, 0.5, 0.1], [0, 1, 1, 0], [0, 0, 1, 1])
    assert shifted == pytest.approx(base)
