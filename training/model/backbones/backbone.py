"""What a backbone is: a module that reads from a sequence what matters for a candidate.

Every model of this project reads sequences through this interface, alone or inside a mixture, so that any backbone can
be wrapped. Shapes: U users, L history length, D width, E event width, Q queries, C events of a query's sequence, K
contexts.
"""

from abc import ABC, abstractmethod

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

WEIGHT_FLOOR = 1e-9
MASKED_LOGIT = -1e9


class Backbone(nn.Module, ABC):
    """The user's half of each event once a request, and a read for each candidate."""

    @abstractmethod
    def events(
        self,
        token_ULD: Float[Tensor, "users length width"],
        context_UL: Int[Tensor, "users length"],
        mask_UL: Bool[Tensor, "users length"],
        theme_UL: Int[Tensor, "users length"] | None = None,
    ) -> Float[Tensor, "users length event"]:
        """What a read needs of every event.

        context_UL: which label, rank and age an event has, in [0, K). theme_UL: where given, an event that looks at
        other events sees those of its own theme alone, as if each theme were a sequence of its own.
        """

    @abstractmethod
    def read(
        self,
        query_QD: Float[Tensor, "queries width"],
        event_QCE: Float[Tensor, "queries events event"],
        weight_QC: Float[Tensor, "queries events"] | None,
        mask_QC: Bool[Tensor, "queries events"],
    ) -> Float[Tensor, "queries width"]:
        """What each query finds in its sequence; zero where the mask keeps no event.

        Sequences are right-aligned: slot C - 1 holds the newest event. weight_QC: how surely an event belongs to the
        sequence, in (0, 1]; None: all fully.
        """


def softmax_share(
    logit: Float[Tensor, "queries *heads events"], weight: Tensor | None, mask: Bool[Tensor, "queries *heads events"]
) -> Float[Tensor, "queries *heads events"]:
    """Softmax over the events that the mask keeps, with log weight as a bias; zero where it keeps none."""
    if weight is not None:
        logit = logit + weight.clamp(min=WEIGHT_FLOOR).log()
    return torch.softmax(logit.masked_fill(~mask, MASKED_LOGIT), dim=-1) * mask


def visible(mask_UL: Bool[Tensor, "users length"], theme_UL: Tensor | None) -> Bool[Tensor, "users length length"]:
    """[u, i, j]: event i may look at event j: itself or an earlier one, of its own theme where themes are given."""
    length = mask_UL.shape[1]
    earlier_LL = torch.ones(length, length, dtype=torch.bool, device=mask_UL.device).tril()
    seen_ULL = earlier_LL & mask_UL.unsqueeze(1)
    return seen_ULL if theme_UL is None else seen_ULL & (theme_UL.unsqueeze(1) == theme_UL.unsqueeze(2))
