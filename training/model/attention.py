"""A candidate and a sequence -> what of the sequence matters for the candidate.

Shapes: B candidates, C events of the sequence, D width, H attention width. A `*` stands for any leading dimensions.
"""

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional

WEIGHT_FLOOR = 1e-9
MASKED_LOGIT = -1e9


class TargetAttention(nn.Module):
    """din: sigmoid(o . LeakyReLU(W_q q + W_k x + W_p (q * x))) w, summed over sqrt of the count; dot: softmax.

    The part W_k x depends on the user alone: `keys` computes it once a request.
    """

    def __init__(self, width: int, hidden: int, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.query = nn.Linear(width, hidden)
        self.key = nn.Linear(width, hidden, bias=False)
        if kind == "din":
            self.product = nn.Linear(width, hidden, bias=False)
            self.out = nn.Linear(hidden, 1)

    def keys(self, x: Float[Tensor, "*shape width"]) -> Float[Tensor, "*shape hidden"]:
        """W_k x, the user's side of the attention."""
        return self.key(x)

    def forward(
        self,
        query_BD: Float[Tensor, "queries width"],
        x_BCD: Float[Tensor, "queries events width"],
        keys_BCH: Float[Tensor, "queries events hidden"],
        weight_BC: Float[Tensor, "queries events"],
        mask_BC: Bool[Tensor, "queries events"],
    ) -> Float[Tensor, "queries width"]:
        """Weighted sum of x over the events that the mask keeps; zero where it keeps none.

        weight_BC: how surely an event belongs to the sequence, in (0, 1].
        """
        query_BH = self.query(query_BD)
        if self.kind == "din":
            product_BCH = functional.linear(query_BD.unsqueeze(1) * x_BCD, self.product.weight)
            hidden_BCH = functional.leaky_relu(product_BCH + keys_BCH + query_BH.unsqueeze(1))
            share_BC = torch.sigmoid(self.out(hidden_BCH).squeeze(-1)) * weight_BC * mask_BC
            share_BC = share_BC * mask_BC.sum(1, keepdim=True, dtype=share_BC.dtype).clamp(min=1).rsqrt()
        else:
            logit_BC = torch.bmm(keys_BCH, query_BH.unsqueeze(-1)).squeeze(-1) / math.sqrt(keys_BCH.shape[-1])
            logit_BC = logit_BC + weight_BC.clamp(min=WEIGHT_FLOOR).log()
            share_BC = torch.softmax(logit_BC.masked_fill(~mask_BC, MASKED_LOGIT), dim=1) * mask_BC
        return torch.bmm(share_BC.unsqueeze(1), x_BCD).squeeze(1)
