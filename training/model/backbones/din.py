"""Attention of the Deep Interest Network: sigmoid(o . LeakyReLU(W_q q + W_k x + W_p (q * x))) for every event.

Shapes: Q queries, C events, D width, H attention width. Source: Zhou et al. 2018, except for the scale 1 / sqrt(count)
in place of a plain sum.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional

from training.model.backbones.backbone import Backbone


class DinAttention(Backbone):
    """Events are their tokens. Key and product layers become one matrix per query: (W_k + W_p diag(q)) x."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.query = nn.Linear(width, hidden)
        self.key = nn.Linear(width, hidden, bias=False)
        self.product = nn.Linear(width, hidden, bias=False)
        self.out = nn.Linear(hidden, 1)

    def events(self, token_ULD: Tensor, context_UL: Tensor, mask_UL: Tensor, theme_UL: Tensor | None = None) -> Tensor:
        """The tokens, unchanged."""
        return token_ULD

    def read(
        self,
        query_QD: Float[Tensor, "queries width"],
        event_QCE: Float[Tensor, "queries events width"],
        weight_QC: Float[Tensor, "queries events"] | None,
        mask_QC: Bool[Tensor, "queries events"],
    ) -> Float[Tensor, "queries width"]:
        """Weighted sum of the tokens, divided by the square root of their number."""
        layer_QDH = self._layer(query_QD)
        hidden_QCH = torch.baddbmm(self.query(query_QD).unsqueeze(1), event_QCE, layer_QDH)
        hidden_QCH = functional.leaky_relu(hidden_QCH, inplace=True)
        share_QC = torch.sigmoid(torch.matmul(hidden_QCH, self.out.weight[0]) + self.out.bias)
        scale_QC = mask_QC * mask_QC.sum(1, keepdim=True, dtype=share_QC.dtype).clamp(min=1).rsqrt()
        share_QC = share_QC * (scale_QC if weight_QC is None else scale_QC * weight_QC)
        return torch.bmm(share_QC.unsqueeze(1), event_QCE).squeeze(1)

    def _layer(self, query_QD: Float[Tensor, "queries width"]) -> Float[Tensor, "queries width hidden"]:
        """(W_k + W_p diag(q))' of every query as a single matrix product, forward and backward."""
        hidden, width = self.product.weight.shape
        spread_DF = torch.diag_embed(self.product.weight).permute(1, 2, 0).reshape(width, width * hidden)
        flat_QF = torch.addmm(self.key.weight.T.flatten(), query_QD, spread_DF)
        return flat_QF.unflatten(1, (width, hidden))
