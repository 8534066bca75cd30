"""A backbone without a mixture: each candidate reads the whole history once. The baseline of a mixture over it.

Shapes: B impressions (candidates), U users (requests), L history length, D width, E event width.
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from training.model.backbones.choose import make_backbone
from training.model.batch import Candidates, History
from training.model.params import ModelParams
from training.model.ranker import Ranker, Tables
from training.model.shape import ModelShape


class SequenceState(NamedTuple):
    """The user side of a request, shared by all its candidates."""

    event_ULE: Float[Tensor, "users length event"]
    mask_UL: Bool[Tensor, "users length"]
    age_UD: Float[Tensor, "users width"]


class BackboneAlone(Ranker):
    """Logit = MLP of [candidate; history as read by it; their product; age of the last event; scalars]."""

    def __init__(self, params: ModelParams, shape: ModelShape, backbone: str) -> None:
        super().__init__(params, shape, 4 * params.width)
        self.name = backbone
        self.backbone = make_backbone(backbone, params.width, shape)

    def user_side(self, history: History, tables: Tables) -> SequenceState:
        """Everything that does not depend on a candidate."""
        token_ULD = self.tokens(functional.embedding(history.item_index_UL, tables.item_NX), history, tables)
        event_ULE = self.backbone.events(token_ULD, self.contexts.rows(history), history.mask_UL)
        return SequenceState(event_ULE, history.mask_UL, self.last_age(history.last_age_bucket_U))

    def score(self, state: SequenceState, candidates: Candidates, tables: Tables) -> Float[Tensor, " impressions"]:
        """Logits of a click on each candidate."""
        return self.head(self.features(state, candidates, tables), candidates.scalars_BS)

    def features(
        self, state: SequenceState, candidates: Candidates, tables: Tables
    ) -> Float[Tensor, "impressions features"]:
        """Inputs of the head, for each candidate."""
        user_B = candidates.user_of_B
        query_BD = functional.embedding(candidates.item_index_B, tables.item_NX)
        read_BD = self.backbone.read(query_BD, state.event_ULE.index_select(0, user_B), None, state.mask_UL[user_B])
        return torch.cat([query_BD, read_BD, query_BD * read_BD, state.age_UD.index_select(0, user_B)], dim=1)
