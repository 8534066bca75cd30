"""Themes of a history's events -> one subsequence per theme, packed to equal length.

Shapes: U users, L history length, T themes, C capacity per theme.
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Int
from torch import Tensor


class Packed(NamedTuple):
    """Subsequences as positions in the history, right-aligned, oldest first."""

    position_UTC: Int[Tensor, "users themes capacity"]  # in [0, L); undefined where the mask is false
    mask_UTC: Bool[Tensor, "users themes capacity"]


def pack(
    theme_UL: Int[Tensor, "users length"], mask_UL: Bool[Tensor, "users length"], num_themes: int, capacity: int
) -> Packed:
    """The most recent `capacity` events of every theme, in time order.

    theme_UL: in [0, T); read only where mask_UL is true.
    Uses one sort by (theme, position), then row gathers; no loop over users or themes.
    """
    num_users, length = theme_UL.shape
    theme_UL = torch.where(mask_UL, theme_UL, num_themes)  # padding sorts behind all themes
    key_UL = theme_UL * length + torch.arange(length, device=theme_UL.device)
    sorted_UL = key_UL.sort(dim=1).values
    order_UL = sorted_UL % length
    bounds = torch.arange(num_themes + 1, device=theme_UL.device) * length
    bound_UT = torch.searchsorted(sorted_UL, bounds.expand(num_users, -1).contiguous())
    start_UT, end_UT = bound_UT[:, :-1], bound_UT[:, 1:]
    slot_UTC = end_UT.unsqueeze(-1) - capacity + torch.arange(capacity, device=theme_UL.device)
    mask_UTC = slot_UTC >= start_UT.unsqueeze(-1)
    position_UTC = order_UL.gather(1, slot_UTC.clamp(0, length - 1).flatten(1)).view_as(slot_UTC)
    return Packed(position_UTC, mask_UTC)
