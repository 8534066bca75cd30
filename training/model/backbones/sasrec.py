"""SASRec-style encoder: causal self-attention over events; the newest state represents the user.

Shapes: U users, L history length, D width, H heads, W width of a head. Source: Kang and McAuley 2018, arXiv 1808.09781.
The rank in the token replaces the position embedding; every candidate reads the same state.
"""

import math

from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from training.model.backbones.backbone import Backbone, softmax_share, visible

NUM_LAYERS = 2
NUM_HEADS = 2


class SasrecEncoder(Backbone):
    """Causal self-attention, two layers; a theme is encoded as a sequence of its own."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Layer(width) for _ in range(NUM_LAYERS))
        self.norm = nn.LayerNorm(width)

    def events(
        self,
        token_ULD: Float[Tensor, "users length width"],
        context_UL: Int[Tensor, "users length"],
        mask_UL: Bool[Tensor, "users length"],
        theme_UL: Int[Tensor, "users length"] | None = None,
    ) -> Float[Tensor, "users length width"]:
        """The state after each event."""
        seen_ULL = visible(mask_UL, theme_UL)
        for layer in self.layers:
            token_ULD = layer(token_ULD, seen_ULL)
        return self.norm(token_ULD)

    def read(
        self,
        query_QD: Float[Tensor, "queries width"],
        event_QCE: Float[Tensor, "queries events width"],
        weight_QC: Float[Tensor, "queries events"] | None,
        mask_QC: Bool[Tensor, "queries events"],
    ) -> Float[Tensor, "queries width"]:
        """The newest state, times its weight."""
        newest_Q = mask_QC[:, -1].to(event_QCE.dtype)
        if weight_QC is not None:
            newest_Q = newest_Q * weight_QC[:, -1]
        return event_QCE[:, -1] * newest_Q.unsqueeze(1)


class Layer(nn.Module):
    """Attention and a feed-forward layer, each pre-norm and residual."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.attention = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        self.forward_norm = nn.LayerNorm(width)
        self.feed_forward = nn.Sequential(nn.Linear(width, 2 * width), nn.ReLU(), nn.Linear(2 * width, width))
        self.num_heads = NUM_HEADS if width % NUM_HEADS == 0 else 1

    def forward(
        self, x_ULD: Float[Tensor, "users length width"], seen_ULL: Bool[Tensor, "users length length"]
    ) -> Float[Tensor, "users length width"]:
        """seen_ULL: which events each event attends to."""
        heads = (self.num_heads, -1)
        query, key, value = (
            each.unflatten(2, heads).transpose(1, 2) for each in self.attention(self.norm(x_ULD)).chunk(3, dim=-1)
        )
        logit_UHLL = query @ key.transpose(2, 3) / math.sqrt(query.shape[-1])
        share_UHLL = softmax_share(logit_UHLL, None, seen_ULL.unsqueeze(1).expand_as(logit_UHLL))
        x_ULD = x_ULD + self.out((share_UHLL @ value).transpose(1, 2).flatten(2))
        return x_ULD + self.feed_forward(self.forward_norm(x_ULD))
