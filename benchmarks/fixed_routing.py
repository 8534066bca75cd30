"""Given themes of items -> a mixture with this fixed routing."""

import numpy as np
import numpy.typing as npt
import torch

from training.model.build import Model
from training.model.mixture import MixtureOfSequence

SURE = 10.0
"""A code is so many times longer than the floor of its direction: routing is as sure as the temperature allows."""


def fix_routing(model: Model, theme_N: npt.NDArray[np.int64]) -> None:
    """Put each item's theme into the router's own tables, as orthogonal codes, and freeze them.

    theme_N: in [0, T), -1 of an item without a theme. The router is one that is never trained (model.router: random):
    it has a code for each item, also for one that training sees too rarely for an embedding of its own. Raises
    ValueError where there are more themes than the router's width can tell apart.
    """
    assert isinstance(model, MixtureOfSequence)
    assert model.params.router == "random", "another router knows nothing of an item that is new"
    router, num_themes = model.router, model.params.num_themes
    width = router.prototype_TR.shape[1]
    if theme_N.max(initial=0) >= num_themes or num_themes > width:
        raise ValueError(f"{theme_N.max(initial=0) + 1} themes, {num_themes} in the model, router width {width}")
    codes = torch.eye(num_themes, width)
    known = torch.from_numpy(np.flatnonzero(theme_N >= 0))
    with torch.no_grad():
        router.prototype_TR.copy_(codes)
        router.item.category.weight.zero_()
        router.item.item.weight.zero_()
        router.item.item.weight[known] = SURE * codes[torch.from_numpy(theme_N)[known]]
    router.requires_grad_(False)
