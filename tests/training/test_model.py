"""What a correct implementation of each model passes (MODEL.md)."""

import itertools

import jaxtyping
import pytest
import torch

from training.fitting.losses import click_loss
from training.model.batch import Candidates, History
from training.model.build import ALONE, MODELS, PEERS, build, load_model, save_weights
from training.model.build import describe as describe_model
from training.model.mixture import OWN, feature_places
from training.model.router import softmax_of_rows

ROUTINGS = [
    {"router": router, "route": route, "num_candidate_themes": number}
    for router, route, number in itertools.product(
        ["decoupled", "tied", "random"], ["item", "blend", "session"], [1, 2]
    )
]
WRAPPED = [
    {"backbone": backbone, "global_expert": expert}
    for backbone, expert in itertools.product(ALONE, ["mean", "backbone"])
]
OPTIONS = [*ROUTINGS, *WRAPPED]
BY_ITSELF = [name for name in MODELS if name != "expert_choice"]
"""Models that score a candidate whatever is scored beside it."""
LENGTHS = [24, 11, 1, 0]


def scores(model, history, candidates):
    tables = model.tables()
    return model.score(model.user_side(history, tables), candidates, tables)


def rows(history, index):
    return History(*(field[index] for field in history))


def pad(history, more):
    """The same histories with more padding on their left, filled with what must not be read."""
    filled = [
        torch.cat([torch.ones(len(field), more, dtype=field.dtype), field], 1) if field.ndim == 2 else field
        for field in history
    ]
    mask = torch.cat([torch.zeros(len(history.mask_UL), more, dtype=torch.bool), history.mask_UL], 1)
    return History(*filled)._replace(mask_UL=mask)


@pytest.mark.parametrize("changes", OPTIONS, ids=lambda changes: "-".join(str(value) for value in changes.values()))
def test_every_option_gives_finite_scores_and_gradients(make_model, make_history, make_candidates, changes):
    model = make_model(**changes)
    logits = scores(model, make_history(LENGTHS), make_candidates(4, 3))
    logits.sum().backward()
    assert torch.isfinite(logits).all()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


@pytest.mark.parametrize("name", BY_ITSELF)
def test_the_cached_user_side_equals_the_repeated_one(make_model, make_history, make_candidates, name):
    model, history, candidates = make_model(name), make_history(LENGTHS), make_candidates(4, 3)
    repeated = rows(history, candidates.user_of_B)
    own = candidates._replace(user_of_B=torch.arange(12))
    torch.testing.assert_close(scores(model, history, candidates), scores(model, repeated, own), rtol=0, atol=1e-7)


@pytest.mark.parametrize("changes", OPTIONS, ids=lambda changes: "-".join(str(value) for value in changes.values()))
def test_padding_never_changes_a_score(make_model, make_history, make_candidates, changes):
    model, history, candidates = make_model(**changes), make_history(LENGTHS), make_candidates(4, 3)
    torch.testing.assert_close(
        scores(model, pad(history, 9), candidates), scores(model, history, candidates), rtol=0, atol=1e-8
    )


@pytest.mark.parametrize("name", [*ALONE, *PEERS])
def test_padding_never_changes_a_score_of_a_baseline(make_model, make_history, make_candidates, name):
    model, history, candidates = make_model(name), make_history(LENGTHS), make_candidates(4, 3)
    torch.testing.assert_close(
        scores(model, pad(history, 9), candidates), scores(model, history, candidates), rtol=0, atol=1e-8
    )


@pytest.mark.parametrize("name", BY_ITSELF)
def test_the_order_of_candidates_and_of_users_changes_no_score(make_model, make_history, make_candidates, name):
    model, history, candidates = make_model(name), make_history(LENGTHS), make_candidates(4, 3)
    expected = scores(model, history, candidates)
    order_B, order_U = torch.randperm(12), torch.tensor([2, 0, 3, 1])
    shuffled = Candidates(*(field[order_B] for field in candidates))
    shuffled = shuffled._replace(user_of_B=order_U.argsort()[shuffled.user_of_B])
    torch.testing.assert_close(scores(model, rows(history, order_U), shuffled), expected[order_B], rtol=0, atol=1e-12)


@pytest.mark.parametrize("route", ["item", "blend", "session"])
def test_the_gradient_of_the_click_loss_reaches_the_router(make_model, make_history, make_candidates, route):
    model = make_model(route=route)
    logits = scores(model, make_history(LENGTHS), make_candidates(4, 3))
    click_loss(logits, (torch.arange(12) % 2).double()).backward()
    for parameter in model.router.parameters():
        assert parameter.grad.abs().sum() > 0


def test_a_random_router_is_not_trained(make_model, make_history, make_candidates):
    model = make_model(router="random")
    scores(model, make_history(LENGTHS), make_candidates(4, 3)).sum().backward()
    assert all(parameter.grad is None for parameter in model.router.parameters())


@pytest.mark.parametrize("number", [1, 2])
def test_an_event_adapted_to_its_theme_when_read_is_the_event_adapted_before(
    make_model, make_history, make_candidates, number
):
    model, history, candidates = make_model(num_candidate_themes=number), make_history(LENGTHS), make_candidates(4, 3)
    with torch.no_grad():
        model.adapter_scale.normal_()
        model.adapter_shift.normal_()
    found = []
    for reads_tokens in (True, False):
        model.theme_backbone.reads_tokens = reads_tokens
        model.zero_grad()
        logits = scores(model, history, candidates)
        logits.square().sum().backward()
        found.append([logits.detach(), *(each.grad for each in model.parameters() if each.grad is not None)])
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-9)


def test_permuting_the_themes_changes_nothing(make_model, make_history, make_candidates):
    model, history, candidates = make_model(), make_history(LENGTHS), make_candidates(4, 3)
    with torch.no_grad():
        model.adapter_scale.normal_()
        model.adapter_shift.normal_()
    expected = scores(model, history, candidates)
    order = torch.tensor([2, 0, 3, 1])
    with torch.no_grad():
        model.router.prototype_TR.copy_(model.router.prototype_TR[order])
        model.adapter_scale.copy_(model.adapter_scale[order])
        model.adapter_shift.copy_(model.adapter_shift[order])
        first = model.head.layers[0].weight
        start = 8 * model.params.width + 2
        first[:, start : start + 4] = first[:, start : start + 4][:, order]
    torch.testing.assert_close(scores(model, history, candidates), expected, rtol=0, atol=1e-8)


@pytest.mark.parametrize("name", BY_ITSELF)
def test_the_exported_model_is_exact_for_any_number_of_candidates(
    make_model, make_history, make_candidates, name, monkeypatch
):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # checking a shape would fix it
    model = make_model(name).eval()

    class Whole(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, history: tuple, candidates: tuple):
            return scores(self.model, History(*history), Candidates(*candidates))

    history, number = make_history([17]), torch.export.Dim("impressions", min=2, max=4096)
    dynamic = ([None] * len(history), [{0: number}] * 3)
    program = torch.export.export(
        Whole(), (tuple(history), tuple(make_candidates(1, 7))), dynamic_shapes=(tuple(dynamic[0]), tuple(dynamic[1]))
    )
    for each in (2, 100):
        candidates = make_candidates(1, each)
        exported = program.module()(tuple(history), tuple(candidates))
        assert torch.equal(exported, scores(model, history, candidates))


def test_an_event_outside_the_mask_never_changes_a_score(make_model, make_history, make_candidates):
    for name, route in [
        ("mos", "item"),
        ("mos", "blend"),
        ("mos", "session"),
        *((name, "item") for name in (*ALONE, *PEERS)),
    ]:
        model, history, candidates = make_model(name, route=route), make_history(LENGTHS), make_candidates(4, 3)
        changed = [torch.where(history.mask_UL, field, 1) if field.ndim == 2 else field for field in history]
        changed = History(*changed)._replace(mask_UL=history.mask_UL)
        assert torch.equal(scores(model, changed, candidates), scores(model, history, candidates))


def test_mutual_information_never_reaches_the_click_tables_when_decoupled(make_model, make_history, make_candidates):
    history = make_history(LENGTHS)
    for router, reached in [("decoupled", False), ("tied", True)]:
        model = make_model(router=router)
        _, loss = model.learn(history, make_candidates(4, 3))
        loss.backward()
        grad = model.items.item.weight.grad
        assert (grad is not None and bool(grad.abs().sum() > 0)) == reached
        assert model.router.prototype_TR.grad.abs().sum() > 0


def test_cold_and_unknown_items_share_one_score(make_model, make_history):
    model = make_model(route="item")
    with torch.no_grad():
        model.catalogue.category_NG[-5:] = 0
        model.catalogue.category_NG[1] = 0
    candidates = Candidates(torch.tensor([1, 38, 41]), torch.zeros(3, dtype=torch.int64), torch.zeros(3, 3).double())
    logits = scores(model, make_history([9]), candidates)
    assert torch.equal(logits, logits[:1].expand(3))


@pytest.mark.parametrize("name", MODELS)
def test_a_saved_model_comes_back_with_equal_scores_and_equal_bytes(
    make_model, make_history, make_candidates, params, shape, tmp_path, name
):
    model = make_model(name).float()
    candidates = make_candidates(4, 3)
    candidates = candidates._replace(scalars_BS=candidates.scalars_BS.float())
    save_weights(model, tmp_path / "a.safetensors")
    save_weights(model, tmp_path / "b.safetensors")
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()
    loaded = load_model(name, tmp_path / "a.safetensors", describe_model(params, shape))
    history = make_history(LENGTHS)
    assert torch.equal(scores(loaded, history, candidates), scores(model, history, candidates))


def test_weights_of_another_shape_are_refused(make_model, params, shape, tmp_path):
    save_weights(make_model(num_themes=3).float(), tmp_path / "mos.safetensors")
    with pytest.raises(ValueError, match="does not fit the model"):
        load_model("mos", tmp_path / "mos.safetensors", describe_model(params, shape))


def test_more_candidate_themes_than_themes_are_refused(params, shape):
    with pytest.raises(ValueError, match="num_candidate_themes is 2"):
        build("mos", params.model_copy(update={"num_themes": 1, "num_candidate_themes": 2}), shape)


def test_the_mixture_can_overfit_a_handful_of_requests(make_model, make_history, make_candidates):
    model, history, candidates = make_model(), make_history([24] * 6), make_candidates(6, 4)
    labels = (torch.rand(24) < 0.4).double()
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(120):
        optimizer.zero_grad()
        loss = click_loss(scores(model, history, candidates), labels)
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.02


@pytest.mark.parametrize("name", MODELS)
def test_dropout_acts_while_training_and_never_on_a_score(make_model, make_history, make_candidates, name):
    dropped, whole = make_model(name, dropout=0.5), make_model(name)
    assert dropped.state_dict().keys() == whole.state_dict().keys()
    history, candidates = make_history(LENGTHS), make_candidates(4, 3)
    expected = scores(whole.eval(), history, candidates)
    assert torch.equal(scores(dropped.eval(), history, candidates), expected)
    assert not torch.equal(scores(dropped.train(), history, candidates), expected)
    assert torch.equal(scores(whole.train(), history, candidates), expected)


@pytest.mark.parametrize("backbone", ALONE)
def test_a_mixture_with_its_backbone_as_global_expert_starts_as_the_backbone(
    make_model, make_history, make_candidates, backbone
):
    """Equal weights where both have them, equal logits: training can only add to what is wrapped."""
    mixture = make_model(backbone=backbone, global_expert="backbone")
    alone = make_model(backbone)
    taken = {name.replace("backbone.", "global_backbone.", 1): value for name, value in alone.state_dict().items()}
    first, places = taken.pop("head.layers.0.weight"), feature_places(mixture.params)
    shared = [place for part, own in places.items() if part not in OWN for place in own]
    with torch.no_grad():
        weight = mixture.head.layers[0].weight
        weight[:, shared] = first[:, : len(shared)]
        weight[:, places["match"].stop :] = first[:, len(shared) :]
    mixture.load_state_dict(taken, strict=False)
    history, candidates = make_history(LENGTHS), make_candidates(4, 3)
    torch.testing.assert_close(
        scores(mixture, history, candidates), scores(alone, history, candidates), rtol=0, atol=1e-12
    )


@pytest.mark.parametrize("backbone", ALONE)
def test_a_mixture_that_takes_over_a_trained_backbone_scores_as_that(
    make_model, make_history, make_candidates, backbone
):
    """Whatever its own weights were; and its experts read with what the backbone learnt."""
    mixture, alone = make_model(backbone=backbone, global_expert="backbone"), make_model(backbone)
    with torch.no_grad():
        mixture.head.layers[0].weight.normal_()
    history, candidates = make_history(LENGTHS), make_candidates(4, 3)
    before = scores(mixture, history, candidates)
    mixture.start_as(alone)
    expected = scores(alone, history, candidates)
    assert (before - expected).abs().max() > 0.01
    torch.testing.assert_close(scores(mixture, history, candidates), expected, rtol=0, atol=1e-12)
    for part in (mixture.theme_backbone, mixture.short_backbone, mixture.global_backbone):
        for name, value in alone.backbone.state_dict().items():
            assert torch.equal(part.state_dict()[name], value)


@pytest.mark.parametrize("name", ["mos", "din"])
def test_a_batch_s_own_items_score_as_the_whole_catalogue_does(make_model, make_history, make_candidates, name):
    """More items than the batch holds: they are renumbered, and nothing else changes."""
    model, history, candidates = make_model(name), make_history([2]), make_candidates(1, 2)
    small = History(*(field[:, -3:] if field.ndim == 2 else field for field in history))
    num_items = len(model.catalogue.row_of_N)
    assert num_items > small.item_index_UL.numel() + 2
    torch.testing.assert_close(model(small, candidates), scores(model, small, candidates), rtol=0, atol=1e-12)


@pytest.mark.parametrize("num_rows", [1, 2, 7, 8, 9, 15, 16, 17, 31, 33, 63, 64, 65, 127, 129, 777])
def test_an_item_s_routing_does_not_depend_on_how_many_are_routed_with_it(num_rows: int) -> None:
    """To the bit: tables of a batch's items are those of the catalogue."""
    torch.manual_seed(num_rows)
    logit_NT = 4 * torch.randn(1000, 12)
    whole = softmax_of_rows(logit_NT)
    for first in (0, 3, 1000 - num_rows):
        rows = slice(first, first + num_rows)
        assert torch.equal(softmax_of_rows(logit_NT[rows]), whole[rows])
    torch.testing.assert_close(whole, torch.softmax(logit_NT, -1), rtol=0, atol=1e-6)
