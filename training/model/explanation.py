"""A scored candidate -> its explanation: theme, contribution of each event, and contribution of each expert.

Shapes: B impressions, C capacity per theme, D width, F features.
"""

from itertools import combinations
from math import factorial
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from training.model.batch import Candidates
from training.model.mixture import MixtureOfSequence, MixtureState, feature_places
from training.model.ranker import Tables

EXPERTS = ("theme", "short", "global")


class Explanation(NamedTuple):
    """Explanations of all candidates. `base` and the experts' contributions sum to the logit."""

    logit_B: Float[Tensor, " impressions"]
    base_B: Float[Tensor, " impressions"]  # logit without the experts: item, counters, match of themes
    expert_B3: Float[Tensor, "impressions experts"]  # Shapley value of each of EXPERTS
    theme_B: Int[Tensor, " impressions"]  # the theme that the candidate reads
    position_BC: Int[Tensor, "impressions capacity"]  # events of that theme, oldest first: positions in [0, U * L)
    mask_BC: Bool[Tensor, "impressions capacity"]
    event_BC: Float[Tensor, "impressions capacity"]  # the logit minus the logit without the event; 0 where masked


def explain(model: MixtureOfSequence, state: MixtureState, candidates: Candidates, tables: Tables) -> Explanation:
    """Explain the logits of these candidates.

    The features of an absent expert are zero. An expert's Shapley value is its contribution averaged over all orders
    in which experts can be added (Shapley 1953), so that the values sum to the logit. An event's value is the logit
    minus the logit without it in the theme's subsequence.
    """
    features_BF = model.features(state, candidates, tables)
    scalars_BS = model.head.standardise(candidates.scalars_BS)
    value = {joined: model.head.mix(_kept(model, features_BF, joined), scalars_BS) for joined in _subsets()}
    routing_BT = functional.embedding(candidates.item_index_B, tables.routing_NT)
    theme_B = routing_BT.argmax(1)
    chosen_B = candidates.user_of_B * state.position_UTC.shape[1] + theme_B
    mask_BC = state.mask_UTC.flatten(0, 1)[chosen_B]
    return Explanation(
        logit_B=value[EXPERTS],
        base_B=value[()],
        expert_B3=torch.stack([_shapley(value, expert) for expert in EXPERTS], dim=1),
        theme_B=theme_B,
        position_BC=state.position_UTC.flatten(0, 1)[chosen_B],
        mask_BC=mask_BC,
        event_BC=_without_each(model, state, candidates, tables, theme_B, value[EXPERTS]) * mask_BC,
    )


def _without_each(
    model: MixtureOfSequence,
    state: MixtureState,
    candidates: Candidates,
    tables: Tables,
    theme_B: Tensor,
    logit_B: Tensor,
) -> Tensor:
    """[B, C] the logit minus the logit without one event of the candidate's theme."""
    capacity = state.mask_UTC.shape[2]
    lost = []
    for slot in range(capacity):
        mask_UTC = state.mask_UTC.clone()
        mask_UTC[candidates.user_of_B, theme_B, slot] = False
        # candidates of one theme share its subsequence: the slot is masked for all of them
        lost.append(logit_B - model.score(state._replace(mask_UTC=mask_UTC), candidates, tables))
    return torch.stack(lost, dim=1)


def _subsets() -> list[tuple[str, ...]]:
    return [joined for size in range(len(EXPERTS) + 1) for joined in combinations(EXPERTS, size)]


def _kept(model: MixtureOfSequence, features_BF: Tensor, joined: tuple[str, ...]) -> Tensor:
    """The features, with those of absent experts at zero."""
    places = feature_places(model.params)
    absent = [place for expert in EXPERTS if expert not in joined for part in (expert, f"query * {expert}")
              for place in places[part]]  # fmt: skip
    return features_BF.index_fill(1, torch.tensor(absent, dtype=torch.int64, device=features_BF.device), 0.0)


def _shapley(value: dict[tuple[str, ...], Tensor], expert: str) -> Tensor:
    others = [each for each in EXPERTS if each != expert]
    added = []
    for size in range(len(others) + 1):
        share = factorial(size) * factorial(len(others) - size) / factorial(len(EXPERTS))
        for joined in combinations(others, size):
            joined_by = tuple(each for each in EXPERTS if each in (*joined, expert))
            added.append(share * (value[joined_by] - value[joined]))
    return torch.stack(added).sum(0)
