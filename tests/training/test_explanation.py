"""Explanations of logits: parts that add up, and the effect of removing events."""

import pytest
import torch

from training.model.explanation import EXPERTS, explain

LENGTHS = [24, 11, 1, 0]


@pytest.fixture(params=["din", "twin", "sasrec"])
def scored(request, make_model, make_history, make_candidates):
    """A model with changed weights, and its scores of some candidates."""
    model = make_model(backbone=request.param)
    with torch.no_grad():
        for parameter in model.head.parameters():
            parameter.mul_(3)
    history, candidates, tables = make_history(LENGTHS), make_candidates(4, 5), model.tables()
    state = model.user_side(history, tables)
    return model, history, state, candidates, tables, explain(model, state, candidates, tables)


def test_the_parts_add_up_to_the_logit(scored):
    model, _, state, candidates, tables, why = scored
    torch.testing.assert_close(why.logit_B, model.score(state, candidates, tables), rtol=0, atol=1e-12)
    torch.testing.assert_close(why.base_B + why.expert_B3.sum(1), why.logit_B, rtol=0, atol=1e-12)
    assert why.expert_B3.abs().max() > 0.1


def test_an_expert_that_read_nothing_adds_nothing(scored):
    *_, candidates, _, why = scored
    assert why.expert_B3[candidates.user_of_B == 3].abs().max() == 0  # the user without a history
    assert len(EXPERTS) == why.expert_B3.shape[1]


def test_the_events_are_those_of_the_theme_that_the_candidate_belongs_to(scored):
    model, history, state, candidates, _, why = scored
    assert torch.equal(why.theme_B, model.themes(candidates.item_index_B).argmax(1))
    routed = state.theme_UL.flatten()[why.position_BC]
    assert (routed == why.theme_B.unsqueeze(1))[why.mask_BC].all()
    assert history.mask_UL.flatten()[why.position_BC][why.mask_BC].all()


def test_an_event_is_worth_what_the_logit_loses_without_it(scored):
    model, _, state, candidates, tables, why = scored
    for row in (why.mask_BC.sum(1) > 1).nonzero().flatten().tolist()[:4]:
        slot = int(why.mask_BC[row].nonzero()[-1])
        mask = state.mask_UTC.clone()
        mask[candidates.user_of_B[row], why.theme_B[row], slot] = False
        one = type(candidates)(*(field[row : row + 1] for field in candidates))
        without = model.score(state._replace(mask_UTC=mask), one, tables)
        torch.testing.assert_close(why.event_BC[row, slot], why.logit_B[row] - without[0], rtol=0, atol=1e-12)
    assert why.event_BC[~why.mask_BC].abs().sum() == 0
