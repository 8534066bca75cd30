"""Routing of events and their sessions -> L_MI: neighbours within a session share a theme, and all themes are used.

Shapes: U users, L history length, T themes.
"""

from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from training.model.batch import History
from training.model.processes import over_processes

NEIGHBOUR_DISTANCES = (1, 3)
JOINT_FLOOR = 1e-9


def mutual_information_loss(routing_ULT: Float[Tensor, "users length themes"], history: History) -> Float[Tensor, ""]:
    """L_MI = -I(theme of an event; theme of its neighbour); from -log T (one theme per session, all themes used) to 0.

    Neighbours are different items 1 or 3 events apart in the same session. Zero if there are none.
    routing_ULT: routing of each event by its item alone; rows sum to 1.
    """
    counted_PN = torch.stack([_counted(history, distance).flatten() for distance in NEIGHBOUR_DISTANCES])
    joint_TT = _Joint.apply(routing_ULT.flatten(0, 1), counted_PN.to(routing_ULT.dtype))
    joint_TT = over_processes(joint_TT + joint_TT.T)
    joint_TT = joint_TT / joint_TT.sum().clamp(min=JOINT_FLOOR)
    marginal_T = joint_TT.sum(1)
    ratio_TT = (joint_TT + JOINT_FLOOR) / (marginal_T.unsqueeze(0) * marginal_T.unsqueeze(1) + JOINT_FLOOR)
    return -(joint_TT * torch.log(ratio_TT)).sum()


def _counted(history: History, distance: int) -> Bool[Tensor, "users length"]:
    """[u, l]: whether event l and the one `distance` later are different items of one session."""
    item_UL, session_UL, mask_UL = history.item_index_UL, history.session_UL, history.mask_UL
    counted_UL = torch.zeros_like(mask_UL)
    earlier, later = (slice(None), slice(None, -distance)), (slice(None), slice(distance, None))
    counted_UL[earlier] = mask_UL[earlier] & mask_UL[later] & (session_UL[earlier] == session_UL[later])
    counted_UL[earlier] &= item_UL[earlier] != item_UL[later]
    return counted_UL


class _Joint(torch.autograd.Function):
    """Sum of p_n p_n+d' over the counted pairs, with a backward that adds to one gradient in place.

    Shapes: N events, P distances.
    """

    @staticmethod
    def forward(ctx: Any, routing_NT: Tensor, counted_PN: Tensor) -> Tensor:
        ctx.save_for_backward(routing_NT, counted_PN)
        joint_TT = routing_NT.new_zeros(routing_NT.shape[-1], routing_NT.shape[-1])
        for distance, counted_N in zip(NEIGHBOUR_DISTANCES, counted_PN.unsqueeze(-1), strict=True):
            joint_TT.addmm_((routing_NT[:-distance] * counted_N[:-distance]).T, routing_NT[distance:])
        return joint_TT

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope_TT: Tensor) -> tuple[Tensor, None]:
        routing_NT, counted_PN = ctx.saved_tensors
        earlier_NT, later_NT = routing_NT @ slope_TT.T, routing_NT @ slope_TT
        slope_NT = torch.zeros_like(routing_NT)
        for distance, counted_N in zip(NEIGHBOUR_DISTANCES, counted_PN.unsqueeze(-1), strict=True):
            slope_NT[:-distance].addcmul_(earlier_NT[distance:], counted_N[:-distance])
            slope_NT[distance:].addcmul_(later_NT[:-distance], counted_N[:-distance])
        return slope_NT, None
