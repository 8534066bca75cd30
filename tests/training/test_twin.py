"""TWIN-style attention against a slow reference: search all events, attend to the best."""

import math

import pytest
import torch

from training.fitting.losses import click_loss
from training.model.twin import NUM_HEADS, TwoStageInterest

LENGTHS = [24, 11, 1, 0]


@pytest.fixture
def twin(make_model) -> TwoStageInterest:
    """With biases that are not zero."""
    model = make_model("twin")
    with torch.no_grad():
        for table in (model.label_bias, model.rank_bias, model.age_bias):
            table.weight.normal_()
    return model


def slow_read(model, history, candidates, num_found):
    """One impression at a time: relevance of each event a head, the best by their mean, softmax over those."""
    width, reads = model.head_width, []
    for item, user in zip(candidates.item_index_B, candidates.user_of_B, strict=True):
        events = history.mask_UL[user].nonzero().squeeze(1)
        if not len(events):
            reads.append(model.query.weight.new_zeros(model.out.out_features))
            continue
        one = type(history)(*(field[user : user + 1] for field in history))
        tokens = model.tokens(model.items(model.catalogue(one.item_index_UL)), one)[0, events]
        bias = sum(
            table(index[0, events])
            for table, index in [
                (model.label_bias, one.label_UL),
                (model.rank_bias, one.rank_bucket_UL),
                (model.age_bias, one.age_bucket_UL),
            ]
        )
        query = model.query(model.items(model.catalogue(item)))
        heads = [slice(head * width, (head + 1) * width) for head in range(NUM_HEADS)]
        relevance = torch.stack([model.key(tokens)[:, h] @ query[h] / math.sqrt(width) for h in heads], 1) + bias
        found = relevance.mean(1).argsort(descending=True)[:num_found]
        values = model.value(tokens)
        shares = torch.softmax(relevance[found], 0)
        reads.append(model.out(torch.cat([shares[:, i] @ values[found][:, h] for i, h in enumerate(heads)])))
    return torch.stack(reads)


@pytest.mark.parametrize("num_found", [1, 3, 24, 50])
def test_the_two_stages_equal_a_search_and_an_attention_event_by_event(twin, make_history, make_candidates, num_found):
    twin.num_found = num_found
    history, candidates = make_history(LENGTHS), make_candidates(4, 3)
    query = twin.items(twin.catalogue(candidates.item_index_B))
    found = twin._read(twin.user_side(history), candidates.user_of_B, query)
    torch.testing.assert_close(found, slow_read(twin, history, candidates, num_found), rtol=0, atol=1e-10)


def test_the_gradient_of_the_click_loss_reaches_keys_values_and_biases(twin, make_history, make_candidates):
    logits = twin(make_history(LENGTHS), make_candidates(4, 3))
    click_loss(logits, (torch.arange(12) % 2).double()).backward()
    for module in (twin.query, twin.key, twin.value, twin.out, twin.label_bias, twin.rank_bias, twin.age_bias):
        assert module.weight.grad.abs().sum() > 0
    assert torch.isfinite(twin.items.item.weight.grad).all()


def test_an_empty_history_reads_nothing(twin, make_history, make_candidates):
    candidates = make_candidates(1, 3)
    query = twin.items(twin.catalogue(candidates.item_index_B))
    assert twin._read(twin.user_side(make_history([0])), candidates.user_of_B, query).abs().max() == 0
