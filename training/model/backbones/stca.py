"""Stacked target attention: each layer's result refines the candidate's query to the same sequence in the next layer.

Shapes: Q queries, C events, D width, H attention width per layer. Source: STCA, arXiv 2511.06077: two or three layers
of attention from candidate to history, linear in its length, each followed by a feed-forward layer.
"""

import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from training.model.backbones.backbone import Backbone, softmax_share

NUM_LAYERS = 2


class StackedAttention(Backbone):
    """Two layers of softmax attention from the candidate to the events."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.keys = nn.Linear(width, NUM_LAYERS * hidden, bias=False)
        self.queries = nn.ModuleList(nn.Linear(width, hidden) for _ in range(NUM_LAYERS))
        self.feed_forward = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.ReLU(), nn.Linear(2 * width, width))
            for _ in range(NUM_LAYERS)
        )

    def events(
        self,
        token_ULD: Float[Tensor, "users length width"],
        context_UL: Int[Tensor, "users length"],
        mask_UL: Bool[Tensor, "users length"],
        theme_UL: Int[Tensor, "users length"] | None = None,
    ) -> Float[Tensor, "users length event"]:
        """[token; its key for each layer]."""
        return torch.cat([token_ULD, self.keys(token_ULD)], dim=-1)

    def read(
        self,
        query_QD: Float[Tensor, "queries width"],
        event_QCE: Float[Tensor, "queries events event"],
        weight_QC: Float[Tensor, "queries events"] | None,
        mask_QC: Bool[Tensor, "queries events"],
    ) -> Float[Tensor, "queries width"]:
        """The last layer's state minus the candidate; zero if there are no events."""
        width = query_QD.shape[1]
        token_QCD, key_QCK = event_QCE.split([width, event_QCE.shape[2] - width], dim=2)
        x_QD = query_QD
        for query, key_QCH, feed in zip(self.queries, key_QCK.chunk(NUM_LAYERS, dim=2), self.feed_forward, strict=True):
            logit_QC = torch.bmm(key_QCH, query(x_QD).unsqueeze(-1)).squeeze(-1) / math.sqrt(key_QCH.shape[2])
            x_QD = x_QD + torch.bmm(softmax_share(logit_QC, weight_QC, mask_QC).unsqueeze(1), token_QCD).squeeze(1)
            x_QD = x_QD + feed(x_QD)
        return (x_QD - query_QD) * mask_QC.any(1, keepdim=True)
