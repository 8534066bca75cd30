"""TWIN-style attention: a candidate searches the whole sequence and attends to the most relevant events.

Shapes: Q queries, C events, H heads, W width of a head, A = H W, E = 2 A + H (keys, values and bias of every head), K
events found. Source: Chang et al. 2023, arXiv 2302.02352: the general and the exact search unit share one relevance.
Differences: one list per query, by the mean relevance over heads, and a bias by label, rank and age of the event in
place of the paper's cross features.
"""

import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from training.model.backbones.backbone import Backbone, softmax_share

NUM_HEADS = 4
NUM_FOUND = 50  # K


class TwinAttention(Backbone):
    """Multi-head target attention over the K most relevant events."""

    def __init__(self, width: int, hidden: int, num_contexts: int) -> None:
        super().__init__()
        self.num_found = NUM_FOUND
        self.head_width = max(hidden // NUM_HEADS, 1)
        inner = NUM_HEADS * self.head_width
        self.query = nn.Linear(width, inner)
        self.key = nn.Linear(width, inner, bias=False)
        self.value = nn.Linear(width, inner, bias=False)
        self.out = nn.Linear(inner, width, bias=False)
        self.context_bias = nn.Embedding(num_contexts, NUM_HEADS)
        nn.init.zeros_(self.context_bias.weight)

    def events(
        self,
        token_ULD: Float[Tensor, "users length width"],
        context_UL: Int[Tensor, "users length"],
        mask_UL: Bool[Tensor, "users length"],
        theme_UL: Int[Tensor, "users length"] | None = None,
    ) -> Float[Tensor, "users length event"]:
        """[W_k token; W_v token; bias]."""
        return torch.cat([self.key(token_ULD), self.value(token_ULD), self.context_bias(context_UL)], dim=-1)

    def read(
        self,
        query_QD: Float[Tensor, "queries width"],
        event_QCE: Float[Tensor, "queries events event"],
        weight_QC: Float[Tensor, "queries events"] | None,
        mask_QC: Bool[Tensor, "queries events"],
    ) -> Float[Tensor, "queries width"]:
        """Attention over the K events of highest mean relevance."""
        heads = (NUM_HEADS, self.head_width)
        inner = NUM_HEADS * self.head_width
        key_QCA, value_QCA, bias_QCH = event_QCE.split([inner, inner, NUM_HEADS], dim=2)
        query_QHW1 = self.query(query_QD).unflatten(1, heads).unsqueeze(-1)
        logit_QHC = (key_QCA.unflatten(2, heads).transpose(1, 2) @ query_QHW1).squeeze(-1) / math.sqrt(self.head_width)
        logit_QHC = logit_QHC + bias_QCH.transpose(1, 2)
        if event_QCE.shape[1] > self.num_found:
            relevance_QC = logit_QHC.detach().mean(1).masked_fill(~mask_QC, -math.inf)
            found_QK = relevance_QC.topk(self.num_found, dim=1).indices
            logit_QHC = logit_QHC.gather(2, found_QK.unsqueeze(1).expand(-1, NUM_HEADS, -1))
            value_QCA = value_QCA.gather(1, found_QK.unsqueeze(-1).expand(-1, -1, inner))
            mask_QC = mask_QC.gather(1, found_QK)
            weight_QC = None if weight_QC is None else weight_QC.gather(1, found_QK)
        weight_Q1C = None if weight_QC is None else weight_QC.unsqueeze(1)
        share_QHC = softmax_share(logit_QHC, weight_Q1C, mask_QC.unsqueeze(1).expand_as(logit_QHC))
        value_QHCW = value_QCA.unflatten(2, heads).transpose(1, 2)
        return self.out((share_QHC.unsqueeze(2) @ value_QHCW).flatten(1))
