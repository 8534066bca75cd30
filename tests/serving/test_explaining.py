"""Explanations of an item's rank: parts that add up to its logit, and the events that contributed.

Models without themes, and those that read items' codes, are explained in test_package.py and test_context.py.
"""

import httpx
import numpy as np
import pytest
import torch

from serving.answering.explaining import MAX_EXPLAINED
from serving.answering.predictor import Predictor
from serving.answering.requests import RankRequest, to_iso, to_microseconds
from serving.bundle.reading import read_codes
from tests.serving.reasons import explained

pytestmark = pytest.mark.xdist_group("serving")


def test_contributions_add_up_to_the_logit_and_known_events_carry_it(predictor: Predictor) -> None:
    carried = 0
    for golden in predictor.bundle.golden[:8]:
        request = RankRequest(user_id=golden.user_id, candidates=golden.candidates, at=to_iso(golden.at))
        reply = explained(predictor, request)
        for item in reply.items:
            assert item.reasons is not None
            assert item.reasons.contributions.keys() == {"base", "theme", "short", "global"}
            carried += bool(item.reasons.history)
    assert carried > 20


def test_a_share_is_what_the_logit_loses_without_that_event(predictor: Predictor) -> None:
    scorer = predictor.bundle.scorer
    golden = max(predictor.bundle.golden, key=lambda each: scorer.known_events(each.events, each.at))
    request = RankRequest(user_id=golden.user_id, candidates=golden.candidates, at=to_iso(golden.at), k=1)
    (best,) = explained(predictor, request).items
    assert best.reasons is not None
    first = best.reasons.history[0]
    known = scorer.newest_events(golden.events, golden.at, scorer.spec.history_length)
    same = [*zip(known.item_ids, known.occurred_at.tolist(), strict=True)]
    slot = scorer.spec.history_length - len(same) + same.index((first.item_id, to_microseconds(first.occurred_at)))
    codes, code_MF = read_codes(scorer, predictor.store, golden.events, [best.item_id], golden.at)
    state = scorer.user_side(golden.events, golden.at, codes)
    row = golden.candidates.index(best.item_id)
    scalars, index = np.array([golden.scalars[row]], np.float32), scorer.item_index([best.item_id])
    place = (state.position_UTC[0, best.theme] == slot) & state.mask_UTC[0, best.theme]
    with torch.inference_mode():
        mask_UTC = state.mask_UTC.clone()
        mask_UTC[0, best.theme] &= ~place
    whole = scorer.score(state, index, scalars, code_MF).logit_M[0]
    without = scorer.score(state._replace(mask_UTC=mask_UTC), index, scalars, code_MF).logit_M[0]
    assert place.sum() == 1
    assert first.share == pytest.approx(float(whole - without), abs=1e-5)


def test_a_user_without_a_history_is_explained_without_one(predictor: Predictor) -> None:
    items = list(predictor.bundle.scorer.index_of)[:2]
    at = to_iso(predictor.clock())
    reply = explained(predictor, RankRequest(user_id="nobody", candidates=[*items, "no item"], at=at))
    for item in reply.items:
        assert item.reasons is not None
        assert item.reasons.history == []
        assert {item.reasons.contributions[expert] for expert in ("theme", "short", "global")} == {0.0}


def test_only_the_first_items_are_explained(predictor: Predictor) -> None:
    golden = predictor.bundle.golden[0]
    candidates = list(predictor.bundle.scorer.index_of)[: MAX_EXPLAINED + 10]
    reply = explained(predictor, RankRequest(user_id=golden.user_id, candidates=candidates, at=to_iso(golden.at)))
    assert len(reply.items) == MAX_EXPLAINED + 10


def test_the_service_explains_as_the_predictor_does(server: httpx.Client, predictor: Predictor) -> None:
    golden = predictor.bundle.golden[0]
    asked = {"user_id": golden.user_id, "candidates": golden.candidates, "at": to_iso(golden.at), "explain": True}
    assert server.post("/rank", json=asked).json() == predictor.rank(RankRequest.model_validate(asked)).model_dump()
    refused = server.post("/rank", json=asked | {"explain": 1})
    assert (refused.status_code, refused.json()["error"]["field"]) == (400, "explain")
