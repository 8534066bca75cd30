"""TWIN-style attention, a baseline: a candidate searches the whole history and attends to what it found.

Shapes: B impressions (candidates), U users (requests), L history length, D width, H heads, W width of a head, K events
found, E = 2 H W + H (keys, values and bias of every head), A = H W.
Source: Chang et al. 2023, arXiv 2302.02352: the general and the exact search unit share one relevance. What is ours:
one list an impression, by the relevance meaned over the heads, and a bias by label, rank and age of the event in place
of the paper's cross features. Tokens, head and scalar features are DIN's; params.attention does not apply.
"""

import math
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from training.model.attention import MASKED_LOGIT
from training.model.batch import Candidates, History
from training.model.embeddings import Catalogue, ItemEmbedding, TokenEmbedding, embedding
from training.model.head import Head
from training.model.params import ModelParams
from training.model.shape import ATTENTION_RATIO, EMBEDDING_STD, ModelShape

NUM_HEADS = 4
NUM_FOUND = 50  # K


class SearchState(NamedTuple):
    """The user's half of all scores of a request."""

    event_ULE: Float[Tensor, "users length event"]  # [W_k token; W_v token; bias]
    mask_UL: Bool[Tensor, "users length"]
    age_UD: Float[Tensor, "users width"]


class TwoStageInterest(nn.Module):
    """Multi-head target attention over the K most relevant of the last L events."""

    def __init__(self, params: ModelParams, shape: ModelShape) -> None:
        super().__init__()
        width, std = params.width, EMBEDDING_STD
        self.num_found = NUM_FOUND
        self.head_width = max(ATTENTION_RATIO * width // NUM_HEADS, 1)
        self.catalogue = Catalogue(shape.num_items, shape.max_categories)
        self.items = ItemEmbedding(shape.num_items, shape.num_categories, width, std)
        self.tokens = TokenEmbedding(shape.num_labels, shape.num_rank_buckets, shape.num_age_buckets, width, std)
        inner = NUM_HEADS * self.head_width
        self.query = nn.Linear(width, inner)
        self.key = nn.Linear(width, inner, bias=False)
        self.value = nn.Linear(width, inner, bias=False)
        self.out = nn.Linear(inner, width, bias=False)
        self.label_bias = blank(shape.num_labels)
        self.rank_bias = blank(shape.num_rank_buckets)
        self.age_bias = blank(shape.num_age_buckets)
        self.last_age = embedding(shape.num_age_buckets, width, std)
        self.head = Head(4 * width, shape.num_scalars, params.hidden, params.dropout)

    def forward(self, history: History, candidates: Candidates) -> Float[Tensor, " impressions"]:
        """Both halves at once: the logits of all candidates."""
        return self.score(self.user_side(history), candidates)

    def user_side(self, history: History) -> SearchState:
        """Everything that does not depend on a candidate: keys, values and biases once a request."""
        token_ULD = self.tokens(self.items(self.catalogue(history.item_index_UL)), history)
        bias_ULH = self.label_bias(history.label_UL) + self.rank_bias(history.rank_bucket_UL)
        bias_ULH = bias_ULH + self.age_bias(history.age_bucket_UL)
        event_ULE = torch.cat([self.key(token_ULD), self.value(token_ULD), bias_ULH], dim=-1)
        return SearchState(event_ULE, history.mask_UL, self.last_age(history.last_age_bucket_U))

    def score(self, state: SearchState, candidates: Candidates) -> Float[Tensor, " impressions"]:
        """Logits of a click on each candidate."""
        query_BD = self.items(self.catalogue(candidates.item_index_B))
        read_BD = self._read(state, candidates.user_of_B, query_BD)
        age_BD = state.age_UD.index_select(0, candidates.user_of_B)
        return self.head(torch.cat([query_BD, read_BD, query_BD * read_BD, age_BD], dim=1), candidates.scalars_BS)

    def _read(self, state: SearchState, user_B: Tensor, query_BD: Tensor) -> Tensor:
        """What the candidate finds; zero where the history is empty."""
        inner = NUM_HEADS * self.head_width
        query_BHW = self.query(query_BD).unflatten(1, (NUM_HEADS, self.head_width))
        key_ULA, value_ULA, bias_ULH = state.event_ULE.split([inner, inner, NUM_HEADS], dim=2)
        key_BHLW = key_ULA.unflatten(2, (NUM_HEADS, self.head_width)).transpose(1, 2).index_select(0, user_B)
        relevance_BHL = (key_BHLW @ query_BHW.unsqueeze(-1)).squeeze(-1) / math.sqrt(self.head_width)
        relevance_BHL = relevance_BHL + bias_ULH.transpose(1, 2).index_select(0, user_B)
        relevance_BHL = relevance_BHL.masked_fill(~state.mask_UL[user_B].unsqueeze(1), MASKED_LOGIT)

        length = relevance_BHL.shape[2]
        found_BK = relevance_BHL.detach().mean(1).topk(min(self.num_found, length), dim=1).indices
        mask_B1K = state.mask_UL[user_B].gather(1, found_BK).unsqueeze(1)
        logit_BHK = relevance_BHL.gather(2, found_BK.unsqueeze(1).expand(-1, NUM_HEADS, -1))
        share_BHK = torch.softmax(logit_BHK, dim=2) * mask_B1K
        row_BK = user_B.unsqueeze(1) * length + found_BK
        value_BKA = value_ULA.flatten(0, 1).index_select(0, row_BK.flatten()).view(*row_BK.shape, inner)
        value_BHKW = value_BKA.unflatten(2, (NUM_HEADS, self.head_width)).transpose(1, 2)
        return self.out((share_BHK.unsqueeze(2) @ value_BHKW).flatten(1))


def blank(num_rows: int) -> nn.Embedding:
    """A bias a head for each row, zero until trained."""
    table = nn.Embedding(num_rows, NUM_HEADS)
    nn.init.zeros_(table.weight)
    return table
