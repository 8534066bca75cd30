"""Items are routed by who read them before the request: by their codes, which nothing was trained on."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from contracts.errors import InputError
from contracts.schema import UNKNOWN_INDEX
from tests.training.conftest import PARAMS, SHAPE
from training.model.batch import Candidates, Codes, History
from training.model.build import build, fit_buffers
from training.model.exported import export_halves

WIDTH = 3
LENGTHS = [24, 11, 1, 0]


@pytest.fixture
def model():
    """Of a log whose ids are all blanked and which has no categories, as EB-NeRD."""
    made = build("mos", PARAMS, replace(SHAPE, code_width=WIDTH))
    rows = np.full(SHAPE.num_items, UNKNOWN_INDEX)
    fit_buffers(made, rows, np.zeros((SHAPE.num_items, 2), np.int64), np.zeros(3), np.ones(3))
    return made.double()


@pytest.fixture
def codes(make_history, make_candidates):
    """Of four requests: the code of an item is one within a request, and another in the next."""
    history, candidates = make_history(LENGTHS), make_candidates(4, 3)
    code_UNF = torch.randn(4, SHAPE.num_items, WIDTH).double()
    code_UNF[:, :2] = 0  # padding and unknown
    users = torch.arange(4).unsqueeze(1)
    return Codes(code_UNF[users, history.item_index_UL], code_UNF[candidates.user_of_B, candidates.item_index_B])


def test_requests_score_alike_together_and_one_by_one(model, make_history, make_candidates, codes):
    history, candidates = make_history(LENGTHS), make_candidates(4, 3)
    together = model(history, candidates, codes)
    for user in range(4):  # one by one, as a service asks
        own = candidates.user_of_B == user
        item_B, scalars_BS = candidates.item_index_B[own], candidates.scalars_BS[own]
        one = Candidates(item_B, torch.zeros(3, dtype=torch.int64), scalars_BS)
        of_one = Codes(codes.event_ULF[user : user + 1], codes.candidate_BF[own])
        alone = model(History(*(field[user : user + 1] for field in history)), one, of_one)
        torch.testing.assert_close(alone, together[own], rtol=0, atol=1e-12)


def test_unknown_items_of_a_request_keep_codes_of_their_own(model, make_history, make_candidates, codes):
    """The ids of this model are blanked, so that items without a number in its vocabulary score like those with one."""
    history, candidates = make_history(LENGTHS), make_candidates(4, 3)
    unknown = torch.where(history.mask_UL, UNKNOWN_INDEX, 0)
    nobody = candidates._replace(item_index_B=torch.full_like(candidates.item_index_B, UNKNOWN_INDEX))
    scored = model(history._replace(item_index_UL=unknown), nobody, codes)
    torch.testing.assert_close(scored, model(history, candidates, codes), rtol=0, atol=1e-12)


def test_zero_codes_equal_no_codes_and_different_codes_give_different_themes(
    model, make_history, make_candidates, codes
):
    history, candidates = make_history(LENGTHS), make_candidates(4, 3)
    nobody = Codes(*(torch.zeros_like(each) for each in codes))
    torch.testing.assert_close(model(history, candidates, nobody), model(history, candidates), rtol=0, atol=1e-12)
    routing = model.themes(torch.full((200,), UNKNOWN_INDEX), torch.randn(200, WIDTH).double())
    torch.testing.assert_close(routing.sum(1), torch.ones(200).double())
    assert len(routing.argmax(1).unique()) == 4
    assert not model.themes(torch.arange(2, 42)).any()


def test_clicks_and_mutual_information_teach_the_map_of_codes(model, make_history, make_candidates, codes):
    for which in (0, 1):
        model.zero_grad()
        model.learn(make_history(LENGTHS), make_candidates(4, 3), codes)[which].sum().backward()
        assert model.router.of_code.weight.grad.abs().sum() > 0


def test_a_code_outside_the_mask_changes_nothing(model, make_history, make_candidates, codes):
    history, candidates = make_history(LENGTHS), make_candidates(4, 3)
    changed = codes._replace(event_ULF=torch.where(history.mask_UL.unsqueeze(-1), codes.event_ULF, 7.0))
    torch.testing.assert_close(model(history, candidates, changed), model(history, candidates, codes))


def test_a_model_without_a_router_reads_no_codes(make_history, make_candidates, codes):
    din = build("din", PARAMS, replace(SHAPE, code_width=WIDTH)).double()
    given = make_history(LENGTHS), make_candidates(4, 3)
    assert torch.equal(din(*given, codes), din(*given))


def test_a_model_that_reads_codes_is_no_program_of_constants(model):
    with pytest.raises(InputError, match="coclick_rank=0"):
        export_halves(model.eval(), replace(SHAPE, code_width=WIDTH))
