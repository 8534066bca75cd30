"""A model -> whether it routes items to themes: the one place that asks, whatever class the model is of."""

from typing import Any, Protocol, TypeGuard

from torch import Tensor


class Themed(Protocol):
    """A model with a router."""

    params: Any  # with num_themes
    catalogue: Any

    def themes(self, item_index: Tensor) -> Tensor:
        """How much each item belongs to each theme; rows sum to 1."""
        ...


def is_themed(model: object) -> TypeGuard[Themed]:
    """Whether a model has a router. A wrapper may hold none, whichever methods it has."""
    return callable(getattr(model, "themes", None)) and getattr(model, "router", None) is not None
