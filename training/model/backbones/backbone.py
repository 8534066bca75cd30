"""The interface of a backbone: a module by which a candidate reads a sequence of events.

All models read sequences through it, alone or inside a mixture, so that any backbone can be wrapped. Shapes: U users,
L history length, D width, E event width, Q queries, C events of a query's sequence, K contexts.
"""

from abc import ABC, abstractmethod

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

WEIGHT_FLOOR = 1e-9
MASKED_LOGIT = -1e9


class Backbone(nn.Module, ABC):
    """`events` runs once per request, `read` once per candidate."""

    reads_tokens = False
    """Whether `events` gives back the tokens, so that a caller may change the events that `read` takes."""

    @abstractmethod
    def events(
        self,
        token_ULD: Float[Tensor, "users length width"],
        context_UL: Int[Tensor, "users length"],
        mask_UL: Bool[Tensor, "users length"],
        theme_UL: Int[Tensor, "users length"] | None = None,
    ) -> Float[Tensor, "users length event"]:
        """The representation of each event that `read` takes.

        context_UL: combination of label, rank and age, in [0, K). theme_UL: if given, self-attention between events is
        limited to events of the same theme, as if each theme were a sequence of its own.
        """

    @abstractmethod
    def read(
        self,
        query_QD: Float[Tensor, "queries width"],
        event_QCE: Float[Tensor, "queries events event"],
        weight_QC: Float[Tensor, "queries events"] | None,
        mask_QC: Bool[Tensor, "queries events"],
    ) -> Float[Tensor, "queries width"]:
        """Each query's summary of its sequence; zero if the mask leaves no event.

        Sequences are right-aligned: slot C - 1 holds the newest event. weight_QC: the routing probability with which
        an event belongs to the sequence, in (0, 1]; None: 1 for all.
        """


def softmax_share(
    logit: Float[Tensor, "queries *heads events"], weight: Tensor | None, mask: Bool[Tensor, "queries *heads events"]
) -> Float[Tensor, "queries *heads events"]:
    """Softmax over the events in the mask, with log weight as a bias; zero if the mask is empty."""
    if weight is not None:
        logit = logit + weight.clamp(min=WEIGHT_FLOOR).log()
    return torch.softmax(logit.masked_fill(~mask, MASKED_LOGIT), dim=-1) * mask


def visible(mask_UL: Bool[Tensor, "users length"], theme_UL: Tensor | None) -> Bool[Tensor, "users length length"]:
    """[u, i, j]: event i may attend to event j: itself or an earlier one, of its own theme if themes are given."""
    length = mask_UL.shape[1]
    earlier_LL = torch.ones(length, length, dtype=torch.bool, device=mask_UL.device).tril()
    seen_ULL = earlier_LL & mask_UL.unsqueeze(1)
    return seen_ULL if theme_UL is None else seen_ULL & (theme_UL.unsqueeze(1) == theme_UL.unsqueeze(2))
