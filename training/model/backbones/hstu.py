"""HSTU-style transducer: gated pointwise attention between events, then each candidate attends to their states.

Shapes: U users, L history length, D width, Q queries, C events. Source: Zhai et al. 2024, arXiv 2402.17152.
Differences: no relative bias (rank and age are part of the token), and target attention at the end as in TransAct
(arXiv 2306.00248), so that the encoder runs once per request and not once per candidate.
"""

import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional

from training.model.backbones.backbone import Backbone, softmax_share, visible

NUM_LAYERS = 2


class HstuEncoder(Backbone):
    """SiLU(Q K') V, divided by the number of visible events and gated; `read` is softmax attention over the states."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(NUM_LAYERS))
        self.inner = nn.ModuleList(nn.Linear(width, 4 * width) for _ in range(NUM_LAYERS))
        self.gate_norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(NUM_LAYERS))
        self.outer = nn.ModuleList(nn.Linear(width, width) for _ in range(NUM_LAYERS))
        self.query = nn.Linear(width, hidden)
        self.key = nn.Linear(width, hidden, bias=False)

    def events(
        self,
        token_ULD: Float[Tensor, "users length width"],
        context_UL: Int[Tensor, "users length"],
        mask_UL: Bool[Tensor, "users length"],
        theme_UL: Int[Tensor, "users length"] | None = None,
    ) -> Float[Tensor, "users length event"]:
        """[state after each event; its key]."""
        seen_ULL = visible(mask_UL, theme_UL).to(token_ULD.dtype)
        scale_ULL = seen_ULL / seen_ULL.sum(-1, keepdim=True).clamp(min=1)
        x_ULD = token_ULD
        for norm, inner, gate_norm, outer in zip(self.norms, self.inner, self.gate_norms, self.outer, strict=True):
            gate, value, query, key = functional.silu(inner(norm(x_ULD))).chunk(4, dim=-1)
            share_ULL = functional.silu(query @ key.transpose(1, 2)) * scale_ULL
            x_ULD = x_ULD + outer(gate_norm(share_ULL @ value) * gate)
        return torch.cat([x_ULD, self.key(x_ULD)], dim=-1)

    def read(
        self,
        query_QD: Float[Tensor, "queries width"],
        event_QCE: Float[Tensor, "queries events event"],
        weight_QC: Float[Tensor, "queries events"] | None,
        mask_QC: Bool[Tensor, "queries events"],
    ) -> Float[Tensor, "queries width"]:
        """Softmax attention over the states."""
        width = query_QD.shape[1]
        state_QCD, key_QCH = event_QCE.split([width, event_QCE.shape[2] - width], dim=2)
        logit_QC = torch.bmm(key_QCH, self.query(query_QD).unsqueeze(-1)).squeeze(-1) / math.sqrt(key_QCH.shape[2])
        return torch.bmm(softmax_share(logit_QC, weight_QC, mask_QC).unsqueeze(1), state_QCD).squeeze(1)
