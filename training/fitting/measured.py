"""Batches of scores or routings -> exact figures over all of them, merged over the processes of a run."""

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from training.metrics import auc, gauc, iauc, logloss

FIGURES = ("logloss", "auc", "gauc", "iauc")


class RankingFigures(Metric):
    """Logloss, AUC, gAUC and iAUC of the validation part; nan if there are no rows or a score is not finite.

    Ranking figures need all rows at once: 24 bytes each, of a sampled part.
    """

    full_state_update = False
    logit: list[Tensor] | Tensor
    label: list[Tensor] | Tensor
    request: list[Tensor] | Tensor
    user: list[Tensor] | Tensor

    def __init__(self) -> None:
        super().__init__()
        for name in ("logit", "label", "request", "user"):
            self.add_state(name, default=[], dist_reduce_fx="cat")

    def update(self, logits_B: Tensor, labels_B: Tensor, requests_B: Tensor, users_B: Tensor) -> None:
        """Add rows: logits and clicks, each with its request and user."""
        rows = (("logit", logits_B.float()), ("label", labels_B), ("request", requests_B), ("user", users_B))
        for name, values in rows:
            getattr(self, name).append(values.detach())

    def compute(self) -> dict[str, float]:
        """FIGURES by name."""
        columns = [self._column(name) for name in ("logit", "label", "request", "user")]
        logits, labels, requests, users = columns
        if not len(logits) or not np.isfinite(logits).all():  # NaN would be sorted like a score
            return dict.fromkeys(FIGURES, float("nan"))
        probabilities = torch.sigmoid(torch.from_numpy(logits)).double().numpy()
        return {
            "logloss": logloss(probabilities, labels),
            "auc": auc(probabilities, labels),
            "gauc": gauc(probabilities, labels, users),
            "iauc": iauc(probabilities, labels, requests),
        }

    def _column(self, name: str) -> npt.NDArray:
        values: Sequence[Tensor] | Tensor = getattr(self, name)
        return dim_zero_cat(values).cpu().numpy() if len(values) else np.zeros(0, np.float32)  # type: ignore[arg-type]


class ThemeUse(Metric):
    """The share of history events routed to each theme, and the mean entropy of the routing.

    Shapes: U users, L history length, T themes.
    """

    full_state_update = False
    load_T: Tensor
    entropy: Tensor
    number: Tensor

    def __init__(self, num_themes: int) -> None:
        super().__init__()
        self.add_state("load_T", default=torch.zeros(num_themes, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("entropy", default=torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("number", default=torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, routing_ULT: Float[Tensor, "users length themes"], mask_UL: Bool[Tensor, "users length"]) -> None:
        """routing_ULT: of each event; rows sum to 1."""
        routing_NT = routing_ULT[mask_UL].double()
        theme_N: Int[Tensor, " events"] = routing_NT.argmax(1)
        self.load_T += torch.bincount(theme_N, minlength=len(self.load_T))
        self.entropy += torch.special.entr(routing_NT).sum()
        self.number += len(routing_NT)

    def compute(self) -> dict[str, float]:
        """load_<theme>: shares that sum to 1; routing_entropy: mean over events, from 0 to 1 (uniform)."""
        number = self.number.clamp(min=1)
        most = math.log(max(len(self.load_T), 2))
        loads = {f"load_{theme:02d}": float(load / number) for theme, load in enumerate(self.load_T)}
        return loads | {"routing_entropy": float(self.entropy / number) / most}
