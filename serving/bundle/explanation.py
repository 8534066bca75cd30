"""Scored candidates -> explanations, by the code of the models (explained.py).

Shapes: M candidates, C events that may contribute, L history length.
"""

from typing import Any

import numpy.typing as npt
import torch
from torch import Tensor

from serving.bundle.explained import BASE, HISTORY, Why
from serving.bundle.scorer import Float32, Int64, Scorer
from training.model.alone import BackboneAlone, SequenceState
from training.model.batch import Candidates
from training.model.explanation import EXPERTS, explain
from training.model.mixture import MixtureOfSequence
from training.model.ranker import Tables

NUM_TRIED = 10
"""Number of events, those with the largest gradient, that are removed one by one for models without themes."""


def explain_scores(scorer: Scorer, state: Any, item_index: Int64, scalars: Float32, code_MF: Float32 | None) -> Why:
    """As `why`, for a scorer that has its model's code."""
    candidates, tables = scorer.candidates(item_index, scalars, code_MF)
    if isinstance(scorer.model, MixtureOfSequence):
        return _of_mixture(scorer.model, state, candidates, tables)
    if isinstance(scorer.model, BackboneAlone):
        return _of_backbone(scorer.model, state, candidates, tables)
    raise ValueError(f"there is no explanation for models of type {type(scorer.model).__name__}")


def _of_mixture(model: MixtureOfSequence, state: Any, candidates: Candidates, tables: Tables) -> Why:
    with torch.inference_mode():
        found = explain(model, state, candidates, tables)
    parts = {BASE: _numpy(found.base_B)}
    parts |= {name: _numpy(part_B) for name, part_B in zip(EXPERTS, found.expert_B3.T, strict=True)}
    return Why(parts, _numpy(found.position_BC), _numpy(found.event_BC))


def _of_backbone(model: BackboneAlone, state: SequenceState, candidates: Candidates, tables: Tables) -> Why:
    """The history is copied for each candidate, so that a different event can be removed for each."""
    num, width = len(candidates.item_index_B), model.params.width
    own = SequenceState(*(column.expand(num, *column.shape[1:]).clone() for column in state))
    candidates = candidates._replace(user_of_B=torch.arange(num, device=candidates.user_of_B.device))
    slope_ML = _slopes(model, own, candidates, tables)
    with torch.inference_mode():
        features_BF = model.features(own, candidates, tables)
        logit_M = model.head(features_BF, candidates.scalars_BS)
        read = torch.arange(
            width, 3 * width, device=features_BF.device
        )  # the history's vector, and its product with the item
        base_M = model.head(features_BF.index_fill(1, read, 0.0), candidates.scalars_BS)
        slot_MC = slope_ML.topk(min(NUM_TRIED, slope_ML.shape[1]), dim=1).indices
        lost = [logit_M - _without(model, own, slot_M, candidates, tables) for slot_M in slot_MC.T]
    carried_MC = torch.stack(lost, dim=1) * own.mask_UL.gather(1, slot_MC)
    return Why({BASE: _numpy(base_M), HISTORY: _numpy(logit_M - base_M)}, _numpy(slot_MC), _numpy(carried_MC))


def _slopes(model: BackboneAlone, own: SequenceState, candidates: Candidates, tables: Tables) -> Tensor:
    """[M, L] first-order decrease of each logit as an event's vector goes to zero; -inf at masked positions."""
    event_MLE = own.event_ULE.clone().requires_grad_()
    with torch.enable_grad():
        model.score(own._replace(event_ULE=event_MLE), candidates, tables).sum().backward()
    assert event_MLE.grad is not None
    slope_ML = (event_MLE.grad * event_MLE.detach()).sum(-1)
    return slope_ML.masked_fill(~own.mask_UL, -torch.inf)


def _without(
    model: BackboneAlone, own: SequenceState, slot_M: Tensor, candidates: Candidates, tables: Tables
) -> Tensor:
    mask_ML = own.mask_UL.scatter(1, slot_M.unsqueeze(1), False)
    return model.score(own._replace(mask_UL=mask_ML), candidates, tables)


def _numpy(values: Tensor) -> npt.NDArray[Any]:
    return values.cpu().numpy()
