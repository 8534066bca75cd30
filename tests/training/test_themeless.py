"""An item of which nothing is known belongs to no theme, neither as an event of a history nor as a candidate."""

import itertools

import pytest
import torch

from contracts.schema import UNKNOWN_INDEX
from training.model.information import mutual_information_loss

NAMELESS = [UNKNOWN_INDEX, 38, 41]
"""Neither a row of their own nor a category."""
LENGTHS = [24, 11, 4, 0]
ROUTERS = list(itertools.product(["decoupled", "tied"], ["item", "blend", "session"]))


@pytest.fixture
def make(make_model):
    def made(is_trained=True, **changes):
        model = make_model(**changes)
        with torch.no_grad():
            model.catalogue.category_NG[NAMELESS] = 0
            model.catalogue.row_of_N[NAMELESS] = UNKNOWN_INDEX
            if is_trained:  # of a new model the row is zero: the same cosine with every theme
                model.items.item.weight[UNKNOWN_INDEX] = torch.randn(model.params.width)
            if is_trained and changes.get("router") != "tied":
                model.router.item.item.weight[UNKNOWN_INDEX] = torch.randn(model.params.router_width)
            model.adapter_scale.normal_()
            model.adapter_shift.normal_()
        return model

    return made


@pytest.fixture
def history(make_history):
    """Every third event is nameless, the newest of the second user too; the third user knows nothing else."""
    made = make_history(LENGTHS)
    item_UL = made.item_index_UL.clone()
    item_UL[:, ::3] = torch.where(made.mask_UL[:, ::3], NAMELESS[1], 0)
    item_UL[1, -1] = item_UL[2, -4:] = NAMELESS[2]
    return made._replace(item_index_UL=item_UL)


@pytest.fixture
def candidates(make_candidates):
    made = make_candidates(4, 6)
    item_B = made.item_index_B.clone()
    item_B[::2] = torch.tensor(NAMELESS).repeat(4)
    return made._replace(item_index_B=item_B)


def user_side(model, history):
    return model.user_side(history, model.tables())


def scores(model, history, candidates):
    return model.score(user_side(model, history), candidates, model.tables())


@pytest.mark.parametrize(("router", "route"), ROUTERS)
@pytest.mark.parametrize("number", [1, 2])
@pytest.mark.parametrize("is_trained", [True, False])
def test_permuting_the_themes_changes_nothing(make, history, candidates, router, route, number, is_trained):
    model = make(is_trained, router=router, route=route, num_candidate_themes=number)
    expected, order = scores(model, history, candidates), torch.tensor([2, 0, 3, 1])
    first, start = model.head.layers[0].weight, 8 * model.params.width + 2
    with torch.no_grad():
        for by_theme in (model.router.prototype_TR, model.adapter_scale, model.adapter_shift):
            by_theme.copy_(by_theme[order])
        first[:, start : start + 4] = first[:, start : start + 4][:, order]
    torch.testing.assert_close(scores(model, history, candidates), expected, rtol=0, atol=1e-8)


def test_an_event_without_a_theme_is_in_no_theme_and_changes_no_summary(make, history):
    model = make()
    state = user_side(model, history)
    told_UL = history.mask_UL & ~torch.isin(history.item_index_UL, torch.tensor(NAMELESS))
    placed = torch.zeros_like(history.mask_UL).flatten()
    placed[state.position_UTC[state.mask_UTC]] = True
    assert placed.view_as(told_UL)[told_UL].sum() == placed.sum() > 10
    other = history._replace(item_index_UL=torch.where(told_UL, history.item_index_UL, UNKNOWN_INDEX))
    for name in ("current_UT", "usual_UT"):
        torch.testing.assert_close(getattr(user_side(model, other), name), getattr(state, name), rtol=0, atol=1e-12)
    newest = model.themes(history.item_index_UL[1, -2])  # the newest event that has a theme
    usual = model.themes(history.item_index_UL[1][told_UL[1]]).mean(0)
    gate = torch.sigmoid(model.gate(history.last_age_bucket_U[1]))
    torch.testing.assert_close(state.current_UT[1], gate * newest + (1 - gate) * usual)
    torch.testing.assert_close(state.current_UT[2:], torch.full((2, 4), 0.25).double())  # they have no such event


def test_such_a_candidate_reads_no_theme(make, history, candidates):
    model = make()
    before = scores(model, history, candidates)
    with torch.no_grad():
        model.adapter_shift += 1.0
    after, is_nameless = scores(model, history, candidates), torch.isin(candidates.item_index_B, torch.tensor(NAMELESS))
    assert torch.equal(after[is_nameless], before[is_nameless])
    assert (after[~is_nameless] != before[~is_nameless]).any()
    assert not model.themes(torch.tensor(NAMELESS)).any()


def test_with_session_routing_an_event_without_a_theme_follows_its_session(make, history):
    model = make(route="session")
    one_session = history._replace(session_UL=torch.zeros_like(history.session_UL))
    state = user_side(model, one_session)
    assert state.mask_UTC[:2].any(2).sum() == 2  # one theme each
    assert state.mask_UTC[0].sum() == model.params.theme_capacity
    assert not state.mask_UTC[2:].any()


def test_such_events_neither_lower_nor_raise_mutual_information(make, history):
    model, mask_UL = make(), history.mask_UL
    routing_ULT = model.tables().routing_NT[history.item_index_UL]
    told_UL = mask_UL & ~torch.isin(history.item_index_UL, torch.tensor(NAMELESS))
    whole, told = (mutual_information_loss(routing_ULT, history._replace(mask_UL=each)) for each in (mask_UL, told_UL))
    torch.testing.assert_close(told, whole, rtol=0, atol=1e-12)


def test_random_routing_gives_each_item_its_own_theme(make_model):
    model = make_model(router="random")
    with torch.no_grad():
        model.catalogue.row_of_N[2:] = UNKNOWN_INDEX  # as where ids are blanked
        model.catalogue.category_NG[:] = 0
    routing = model.themes(torch.arange(2, 42))
    assert len(routing.argmax(1).unique()) == 4
    assert len(routing.unique(dim=0)) == 40
