"""Routing of events and their sessions -> L_MI: neighbours within a session share a theme, and all themes are used.

Shapes: U users, L history length, T themes.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from training.model.batch import History
from training.model.processes import over_processes

NEIGHBOUR_DISTANCES = (1, 3)
JOINT_FLOOR = 1e-9


def mutual_information_loss(routing_ULT: Float[Tensor, "users length themes"], history: History) -> Float[Tensor, ""]:
    """L_MI = -I(theme of an event; theme of its neighbour); from -log T (one theme per session, all themes used) to 0.

    Neighbours are different items 1 or 3 events apart in the same session. Zero if there are none.
    routing_ULT: routing of each event by its item alone; rows sum to 1.
    """
    item_UL, session_UL, mask_UL = history.item_index_UL, history.session_UL, history.mask_UL
    joint_TT = routing_ULT.new_zeros(routing_ULT.shape[-1], routing_ULT.shape[-1])
    for distance in NEIGHBOUR_DISTANCES:
        if distance >= item_UL.shape[1]:
            continue
        earlier, later = (slice(None), slice(None, -distance)), (slice(None), slice(distance, None))
        counts = mask_UL[earlier] & mask_UL[later] & (session_UL[earlier] == session_UL[later])
        counts = counts & (item_UL[earlier] != item_UL[later])
        counted = (routing_ULT[earlier] * counts.unsqueeze(-1)).flatten(0, 1)
        joint_TT = torch.addmm(joint_TT, counted.T, routing_ULT[later].flatten(0, 1))
    joint_TT = over_processes(joint_TT + joint_TT.T)
    joint_TT = joint_TT / joint_TT.sum().clamp(min=JOINT_FLOOR)
    marginal_T = joint_TT.sum(1)
    ratio_TT = (joint_TT + JOINT_FLOOR) / (marginal_T.unsqueeze(0) * marginal_T.unsqueeze(1) + JOINT_FLOOR)
    return -(joint_TT * torch.log(ratio_TT)).sum()
