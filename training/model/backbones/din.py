"""Attention of the Deep Interest Network: sigmoid(o . LeakyReLU(W_q q + W_k x + W_p (q * x))) for every event.

Shapes: Q queries, C events, D width, H attention width. Source: Zhou et al. 2018, except for the scale 1 / sqrt(count)
in place of a plain sum.
"""

from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from training.model.backbones.backbone import Backbone

SLOPE = 0.01  # of LeakyReLU below zero


class DinAttention(Backbone):
    """Events are their tokens. Key and product layers become one matrix per query: (W_k + W_p diag(q)) x."""

    reads_tokens = True

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
        own = (query_QD, self.query(query_QD), event_QCE, self.key.weight, self.product.weight, self.out.weight[0])
        logit_QC = _Logits.apply(*own) if _is_trained_eagerly(own[1]) else _logits(*own)[0]
        share_QC = torch.sigmoid(logit_QC + self.out.bias)
        scale_QC = mask_QC * mask_QC.sum(1, keepdim=True, dtype=share_QC.dtype).clamp(min=1).rsqrt()
        share_QC = share_QC * (scale_QC if weight_QC is None else scale_QC * weight_QC)
        return torch.bmm(share_QC.unsqueeze(1), event_QCE).squeeze(1)


def _is_trained_eagerly(value: Tensor) -> bool:
    """Whether `_Logits` may be used: it takes no mixed precision, and compilers make a backward of their own."""
    is_whole = value.dtype in (torch.float32, torch.float64)
    return is_whole and torch.is_grad_enabled() and not torch.compiler.is_compiling()


def _logits(
    query_QD: Tensor, own_QH: Tensor, event_QCD: Tensor, key_HD: Tensor, product_HD: Tensor, out_H: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """o . LeakyReLU(own + W_k x + W_p (q * x)) [Q, C], its hidden layer [Q, C, H] and each query's matrix [Q, D, H]."""
    layer_QDH = (query_QD.unsqueeze(-1) * product_HD.T.contiguous()).add_(key_HD.T.contiguous())
    hidden_QCH = torch.bmm(event_QCD, layer_QDH).add_(own_QH.unsqueeze(1))
    hidden_QCH = functional.leaky_relu(hidden_QCH, SLOPE, inplace=True)
    return torch.matmul(hidden_QCH, out_H), hidden_QCH, layer_QDH


class _Logits(torch.autograd.Function):
    """`_logits` with a backward in the memory of its hidden layer, where autograd's would make four copies of it.

    So it runs once: a second backward through the same graph is refused by autograd.
    """

    @staticmethod
    def forward(ctx: Any, *inputs: Tensor) -> Tensor:
        """As `_logits`."""
        logit_QC, hidden_QCH, layer_QDH = _logits(*inputs)
        query_QD, _, event_QCD, _, product_HD, out_H = inputs
        ctx.save_for_backward(query_QD, event_QCD, product_HD, out_H, hidden_QCH, layer_QDH)
        return logit_QC

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor, ...]:
        """The gradient of each input."""
        (slope_QC,) = slopes
        query_QD, event_QCD, product_HD, out_H, hidden_QCH, layer_QDH = ctx.saved_tensors
        of_out_H = hidden_QCH.flatten(0, 1).T @ slope_QC.flatten()
        steepness = torch.ops.aten.leaky_relu_backward.grad_input
        of_hidden_QCH = steepness(out_H.expand_as(hidden_QCH), hidden_QCH, SLOPE, True, grad_input=hidden_QCH)
        of_hidden_QCH.mul_(slope_QC.unsqueeze(-1))
        of_event_QCD = torch.bmm(of_hidden_QCH, layer_QDH.transpose(1, 2))
        of_layer_QDH = torch.bmm(event_QCD.transpose(1, 2), of_hidden_QCH)
        of_query_QD = torch.mul(of_layer_QDH, product_HD.T.contiguous(), out=layer_QDH).sum(2)
        of_key_HD = of_layer_QDH.sum(0).T
        of_product_HD = of_layer_QDH.mul_(query_QD.unsqueeze(-1)).sum(0).T
        return of_query_QD, of_hidden_QCH.sum(1), of_event_QCD, of_key_HD, of_product_HD, of_out_H
