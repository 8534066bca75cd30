"""Sparse optimizers equal dense ones, on the models' own tables."""

import copy

import pytest
import torch
from torch import nn
from torch.optim import SparseAdam

from training.fitting import optimizers
from training.fitting.losses import click_loss
from training.fitting.optimizers import RowAdam, RowsAndRest, choose_sparse, clip_by_norm, make_optimizer


@pytest.fixture(autouse=True)
def _all_tables_are_large(monkeypatch):
    monkeypatch.setattr(optimizers, "SPARSE_LEAST", 1)


@pytest.fixture
def step(make_history, make_candidates):
    """Forward and backward of a batch that the seed draws; gradients are left on the model."""
    history = make_history([24, 5, 0])
    labels = torch.tensor([1.0, 0.0] * 6).double()

    def take(model, seed=4):
        model.zero_grad()
        logits, mutual_information = model.learn(history, make_candidates(3, 4, seed))
        (click_loss(logits, labels) + 0.3 * mutual_information).backward()

    return take


@pytest.mark.parametrize("name", ["mos", "din"])
def test_a_sparse_gradient_is_the_dense_one(make_model, step, name):
    dense, sparse = make_model(name), make_model(name)
    assert choose_sparse(sparse, "sparse") == sum(isinstance(each, nn.Embedding) for each in sparse.modules())
    step(dense)
    step(sparse)
    for one, two in zip(dense.parameters(), sparse.parameters(), strict=True):
        assert one.grad is not None
        assert two.grad is not None
        torch.testing.assert_close(two.grad.to_dense(), one.grad)


def test_rows_step_as_torchs_sparse_adam_does():
    torch.manual_seed(2)
    ours, theirs = (nn.Embedding(50, 4, sparse=True, dtype=torch.float64) for _ in range(2))
    theirs.load_state_dict(ours.state_dict())
    pairs = [(ours, RowAdam(ours.parameters(), 0.05)), (theirs, SparseAdam(list(theirs.parameters()), 0.05))]
    before = ours.weight.detach().clone()
    for _ in range(5):
        rows = torch.randint(0, 40, (30,))
        for table, optimizer in pairs:
            optimizer.zero_grad()
            table(rows).square().sum().backward()
            optimizer.step()
    torch.testing.assert_close(ours.weight, theirs.weight, rtol=0, atol=1e-12)
    assert torch.equal(ours.weight[40:], before[40:]), "rows that no batch has read stay as they are"
    assert (ours.weight[:40] != before[:40]).any()


def test_a_sparse_optimizer_resumes_from_its_state(make_model, step):
    whole, first = make_model(), make_model()
    for model in (whole, first):
        choose_sparse(model, "sparse")
    optimizer = make_optimizer(whole, 0.01)
    assert isinstance(optimizer, RowsAndRest)
    for seed in range(4):
        step(whole, seed)
        optimizer.step()
    begun = make_optimizer(first, 0.01)
    for seed in range(2):
        step(first, seed)
        begun.step()
    second = copy.deepcopy(first)
    goes_on = make_optimizer(second, 0.01)
    goes_on.load_state_dict(copy.deepcopy(begun.state_dict()))
    for seed in range(2, 4):
        step(second, seed)
        goes_on.step()
    assert all(torch.equal(one, two) for one, two in zip(whole.parameters(), second.parameters(), strict=True))


@pytest.mark.parametrize("limit", [1e-3, 1e3])
def test_clipping_by_norm_is_torchs_own_and_knows_sparse_gradients(make_model, step, limit):
    dense, sparse = make_model(), make_model()
    choose_sparse(sparse, "sparse")
    step(dense)
    step(sparse)
    torch.nn.utils.clip_grad_norm_(dense.parameters(), limit)
    clip_by_norm(sparse.parameters(), limit)
    for one, two in zip(dense.parameters(), sparse.parameters(), strict=True):
        torch.testing.assert_close(two.grad.to_dense(), one.grad, rtol=1e-9, atol=1e-15)


def test_auto_takes_large_tables_alone_and_one_process_alone(make_model, monkeypatch):
    monkeypatch.setattr(optimizers, "SPARSE_FROM", 42)  # the items of the small models
    model = make_model()
    assert choose_sparse(model, "auto") == 2
    assert model.items.item.sparse
    assert model.router.item.item.sparse
    assert not model.items.category.sparse
    assert choose_sparse(model, "auto", num_processes=2) == 0
    assert choose_sparse(make_model(router="random"), "auto") == 1, "a frozen table has no gradient"
    assert isinstance(make_optimizer(model, 0.01), torch.optim.Adam)
