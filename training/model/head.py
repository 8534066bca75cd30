"""The experts' outputs and the scalar features -> one logit per candidate.

Shapes: B candidates, S scalar features, F features into the head.
"""

from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn

SCALAR_LIMIT = 5.0  # standard deviations; counters of later days may exceed those of training by far


class Head(nn.Module):
    """MLP over [features; standardised scalars]. The scalars' mean and scale are buffers, fitted on the train part."""

    mean_S: Tensor
    scale_S: Tensor

    def __init__(self, num_features: int, num_scalars: int, hidden: tuple[int, ...], dropout: float) -> None:
        super().__init__()
        self.register_buffer("mean_S", torch.zeros(num_scalars))
        self.register_buffer("scale_S", torch.ones(num_scalars))
        widths = [num_features + num_scalars, *hidden]
        layers: list[nn.Module] = []
        for before, after in pairwise(widths):
            relu = nn.Sequential(nn.ReLU(), nn.Dropout(dropout)) if dropout else nn.ReLU()
            layers += [nn.Linear(before, after), relu]
        self.layers = nn.Sequential(*layers, nn.Linear(widths[-1], 1))

    def start_blind(self, features: list[int]) -> None:
        """Set the weights of these features to zero, so that training starts as if they were absent."""
        with torch.no_grad():
            self.layers[0].weight[:, features] = 0.0  # type: ignore[operator]

    def forward(
        self, features_BF: Float[Tensor, "impressions features"], scalars_BS: Float[Tensor, "impressions scalars"]
    ) -> Float[Tensor, " impressions"]:
        """Click logits."""
        return self.mix(features_BF, self.standardise(scalars_BS))

    def standardise(self, scalars_BS: Float[Tensor, "impressions scalars"]) -> Float[Tensor, "impressions scalars"]:
        """Scalars in standard deviations of the train part, clipped at SCALAR_LIMIT."""
        return ((scalars_BS - self.mean_S) / self.scale_S).clamp(-SCALAR_LIMIT, SCALAR_LIMIT)

    def mix(
        self, features_BF: Float[Tensor, "impressions features"], scalars_BS: Float[Tensor, "impressions scalars"]
    ) -> Float[Tensor, " impressions"]:
        """Logits from scalars that are already standardised."""
        return self.layers(torch.cat([features_BF, scalars_BS], dim=1)).squeeze(1)
