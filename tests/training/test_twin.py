"""TWIN-style attention against a slow reference: search all events, attend to the best."""

import math

import pytest
import torch

from training.fitting.losses import click_loss
from training.model.alone import BackboneAlone
from training.model.backbones.twin import NUM_HEADS

LENGTHS = [24, 11, 1, 0]


@pytest.fixture
def twin(make_model) -> BackboneAlone:
    """With biases that are not zero."""
    model = make_model("twin")
    with torch.no_grad():
        model.backbone.context_bias.weight.normal_()
    return model


def slow_read(model, history, candidates, num_found):
    """One impression at a time: relevance of each event a head, the best by their mean, softmax over those."""
    twin, tables, reads = model.backbone, model.tables(), []
    width = twin.head_width
    for item, user in zip(candidates.item_index_B, candidates.user_of_B, strict=True):
        events = history.mask_UL[user].nonzero().squeeze(1)
        if not len(events):
            reads.append(twin.query.weight.new_zeros(twin.out.out_features))
            continue
        one = type(history)(*(field[user : user + 1] for field in history))
        tokens = model.tokens(tables.item_NX[one.item_index_UL], one, tables)[0, events]
        bias = twin.context_bias(model.contexts.rows(one)[0, events])
        query = twin.query(model.items(model.catalogue(item)))
        heads = [slice(head * width, (head + 1) * width) for head in range(NUM_HEADS)]
        relevance = torch.stack([twin.key(tokens)[:, h] @ query[h] / math.sqrt(width) for h in heads], 1) + bias
        found = relevance.mean(1).argsort(descending=True)[:num_found]
        values = twin.value(tokens)
        shares = torch.softmax(relevance[found], 0)
        reads.append(twin.out(torch.cat([shares[:, i] @ values[found][:, h] for i, h in enumerate(heads)])))
    return torch.stack(reads)


def read(model, history, candidates):
    """What each impression reads, as the model computes it."""
    state = model.user_side(history, model.tables())
    query = model.items(model.catalogue(candidates.item_index_B))
    user = candidates.user_of_B
    return model.backbone.read(query, state.event_ULE[user], None, state.mask_UL[user])


@pytest.mark.parametrize("num_found", [1, 3, 24, 50])
def test_the_two_stages_equal_a_search_and_an_attention_event_by_event(twin, make_history, make_candidates, num_found):
    twin.backbone.num_found = num_found
    history, candidates = make_history(LENGTHS), make_candidates(4, 3)
    found = read(twin, history, candidates)
    torch.testing.assert_close(found, slow_read(twin, history, candidates, num_found), rtol=0, atol=1e-10)


def test_the_gradient_of_the_click_loss_reaches_keys_values_and_biases(twin, make_history, make_candidates):
    logits = twin(make_history(LENGTHS), make_candidates(4, 3))
    click_loss(logits, (torch.arange(12) % 2).double()).backward()
    part = twin.backbone
    for module in (part.query, part.key, part.value, part.out, part.context_bias):
        assert module.weight.grad.abs().sum() > 0
    assert torch.isfinite(twin.items.item.weight.grad).all()


def test_an_empty_history_reads_nothing(twin, make_history, make_candidates):
    assert read(twin, make_history([0]), make_candidates(1, 3)).abs().max() == 0
