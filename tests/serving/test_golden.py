"""Golden requests with a near tie of routing: another device may route differently; nothing else may differ."""

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from contracts.errors import InputError
from serving.bundle.golden import TOLERANCE, check_golden, differences, margin, near_tie
from serving.bundle.loaded import MODEL, load_scorer, model_of, open_bundle, read_json, weights_of
from serving.bundle.scorer import Scorer
from tests.serving.bundles import Weights, rewritten
from training.model.build import build
from training.model.router import direction
from training.model.shape import ModelShape

pytestmark = pytest.mark.xdist_group("serving")

TILT = 2e-6
"""What another device rounds otherwise, made large enough to be sure of it."""


def between(items: list[int], scorer: Scorer, tilt: float) -> Callable[[Weights], None]:
    """Put items between the two themes that are most alike, a little nearer to the one or the other."""
    direction_TR = direction(scorer.model.state_dict()["router.prototype_TR"]).double()
    alike_TT = direction_TR @ direction_TR.T
    one, two = divmod(int((alike_TT - 2 * torch.eye(len(alike_TT))).argmax()), len(alike_TT))
    pair = direction_TR[[one, two]]
    code = torch.linalg.solve(pair @ pair.T, torch.tensor([1 + tilt, 1 - tilt]).double()) @ pair
    code = code.float()

    def change(weights: Weights) -> None:
        for item in items:
            weights["catalogue.category_NG"][item] = 0
            weights["catalogue.row_of_N"][item] = item
            weights["router.item.item.weight"][item] = code

    return change


def some_items(bundle: Path, number: int) -> list[int]:
    """Items of the golden requests' candidates, first those that stand in none of their histories."""
    opened = open_bundle(bundle)
    read = {name for golden in opened.golden for name in golden.item_ids}
    names = dict.fromkeys(name for golden in opened.golden for name in golden.candidates)
    return [opened.scorer.index_of[name] for name in sorted(names, key=lambda name: name in read)[:number]]


def flipped(data: Path, folder: Path, items: list[int]) -> tuple[Path, Path]:
    """Two bundles: packaged with the items on one side of the tie, and as another device sees it, on the other."""
    scorer = load_scorer(data / "bundle")
    return tuple(
        rewritten(data / "bundle", folder / name, between(items, scorer, tilt))
        for name, tilt in (("packaged", TILT), ("here", -TILT))
    )  # type: ignore[return-value]


def test_a_near_tie_that_flips_is_counted_and_said_and_the_service_starts(
    data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    packaged, here = flipped(data, tmp_path, some_items(data / "bundle", 1))
    golden, scorer = open_bundle(packaged).golden, load_scorer(here)
    off = np.concatenate([differences(np.array(one.rescore(scorer)), np.array(one.logits)) for one in golden])
    num_jumped = int((off > TOLERANCE).sum())
    assert num_jumped > 0  # otherwise this test shows nothing
    with caplog.at_level(logging.WARNING, "leitmotif"):
        found = check_golden(scorer, golden)
    assert (found.num_flipped, found.num_candidates) == (num_jumped, len(off))
    assert f"{num_jumped} of {len(off)} golden candidates are routed differently here" in caplog.text
    assert check_golden(load_scorer(packaged), golden).num_flipped == 0


def test_more_flips_than_rounding_explains_are_refused(data: Path, tmp_path: Path) -> None:
    packaged, here = flipped(data, tmp_path, some_items(data / "bundle", 60))
    with pytest.raises(InputError, match=r"of 160 golden candidates have other scores .* explains at most 5%"):
        check_golden(load_scorer(here), open_bundle(packaged).golden)


def test_a_real_difference_is_refused_beside_a_near_tie_and_at_it(data: Path, tmp_path: Path) -> None:
    packaged, here = flipped(data, tmp_path, some_items(data / "bundle", 1))
    golden = open_bundle(packaged).golden
    path = here / weights_of(model_of(here))
    weights = load_file(path)
    last = max(name for name in weights if name.startswith("head.layers.") and name.endswith(".bias"))
    save_file(weights | {last: weights[last] + 1e-3}, path)
    with pytest.raises(InputError, match="does not reproduce"):
        check_golden(load_scorer(here), golden)
    tied = next(one for one in golden if near_tie(load_scorer(packaged), one).any())
    far = replace(tied, logits=[logit + 50 for logit in tied.logits])
    with pytest.raises(InputError, match="does not reproduce"):
        check_golden(load_scorer(packaged), [far])


def test_a_candidate_elsewhere_in_a_list_with_a_near_tie_must_reproduce(data: Path, tmp_path: Path) -> None:
    packaged, _ = flipped(data, tmp_path, some_items(data / "bundle", 1))
    scorer, golden = load_scorer(packaged), open_bundle(packaged).golden
    tied = next(one for one in golden if near_tie(scorer, one).any() and not near_tie(scorer, one).all())
    other = int(np.argmin(near_tie(scorer, tied)))
    spoiled = [logit + 1e-3 * (place == other) for place, logit in enumerate(tied.logits)]
    with pytest.raises(InputError, match="does not reproduce"):
        check_golden(scorer, [replace(tied, logits=spoiled)])


def test_a_margin_is_that_of_the_last_theme_that_is_read() -> None:
    routing = np.array([[0.5, 0.3, 0.2], [0.4, 0.4, 0.2], [0.2, 0.4, 0.4]])
    np.testing.assert_allclose(margin(routing, 1), [0.2, 0.0, 0.0])
    np.testing.assert_allclose(margin(routing, 2), [0.1, 0.2, 0.2])
    assert np.isinf(margin(routing, 3)).all()


@pytest.mark.parametrize("route", ["session", "blend"])
def test_events_that_are_routed_by_their_session_are_read_as_the_model_routes_them(data: Path, route: str) -> None:
    """The tie of a session's mean is no tie of its items."""
    opened = open_bundle(data / "bundle")
    params = opened.scorer.params.model_copy(update={"route": route})
    shape = ModelShape(**read_json(data / "bundle" / MODEL)["shape"])
    model = build("mos", params, shape).eval().requires_grad_(False)
    model.load_state_dict(opened.scorer.model.state_dict(), strict=False)  # blend alone has a weight more
    scorer = Scorer.of(model, params, opened.scorer.spec, opened.scorer.index_of)
    encoded = scorer.encode(opened.golden[0].events, opened.golden[0].at)
    found, by_item = scorer.routing(encoded), opened.scorer.routing(encoded)
    assert found.shape == by_item.shape
    mask = encoded.mask.reshape(-1)
    np.testing.assert_allclose(found[mask].sum(1), 1, rtol=1e-5)
    assert not np.allclose(found[mask], by_item[mask])
    state = scorer.user_side(opened.golden[0].events, opened.golden[0].at)
    np.testing.assert_array_equal(found.argmax(1)[mask], state.theme_UL[0].cpu().numpy()[mask])
