"""Deep Interest Network, the baseline: each candidate attends to the whole history.

Shapes: B impressions (candidates), U users (requests), L history length, D width, H attention width, E = D + H.
Source: Zhou et al. 2018. Tokens, head and scalar features are those of the Mixture of Sequence.
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from training.model.attention import TargetAttention
from training.model.batch import Candidates, History
from training.model.embeddings import Catalogue, ItemEmbedding, TokenEmbedding, embedding
from training.model.head import Head
from training.model.params import ModelParams
from training.model.shape import ATTENTION_RATIO, EMBEDDING_STD, ModelShape


class InterestState(NamedTuple):
    """The user's half of all scores of a request."""

    event_ULE: Float[Tensor, "users length event"]  # [token; W_k token]
    mask_UL: Bool[Tensor, "users length"]
    age_UD: Float[Tensor, "users width"]


class DeepInterestNetwork(nn.Module):
    """Target attention over the last L events."""

    def __init__(self, params: ModelParams, shape: ModelShape) -> None:
        super().__init__()
        width = params.width
        self.catalogue = Catalogue(shape.num_items, shape.max_categories)
        self.items = ItemEmbedding(shape.num_items, shape.num_categories, width, EMBEDDING_STD)
        self.tokens = TokenEmbedding(
            shape.num_labels, shape.num_rank_buckets, shape.num_age_buckets, width, EMBEDDING_STD
        )
        self.attention = TargetAttention(width, ATTENTION_RATIO * width, params.attention)
        self.last_age = embedding(shape.num_age_buckets, width, EMBEDDING_STD)
        self.head = Head(4 * width, shape.num_scalars, params.hidden, params.dropout)

    def forward(self, history: History, candidates: Candidates) -> Float[Tensor, " impressions"]:
        """Both halves at once: the logits of all candidates."""
        return self.score(self.user_side(history), candidates)

    def user_side(self, history: History) -> InterestState:
        """Everything that does not depend on a candidate."""
        token_ULD = self.tokens(self.items(self.catalogue(history.item_index_UL)), history)
        event_ULE = torch.cat([token_ULD, self.attention.keys(token_ULD)], dim=-1)
        return InterestState(event_ULE, history.mask_UL, self.last_age(history.last_age_bucket_U))

    def score(self, state: InterestState, candidates: Candidates) -> Float[Tensor, " impressions"]:
        """Logits of a click on each candidate."""
        user_B = candidates.user_of_B
        query_BD = self.items(self.catalogue(candidates.item_index_B))
        event_BLE = state.event_ULE.index_select(0, user_B)
        width = query_BD.shape[1]
        token_BLD, key_BLH = event_BLE.split([width, event_BLE.shape[2] - width], dim=2)
        weight_BL = torch.ones_like(key_BLH[..., 0])
        read_BD = self.attention(query_BD, token_BLD, key_BLH, weight_BL, state.mask_UL[user_B])
        features = [query_BD, read_BD, query_BD * read_BD, state.age_UD.index_select(0, user_B)]
        return self.head(torch.cat(features, dim=1), candidates.scalars_BS)
