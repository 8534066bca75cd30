"""Routing of items and their sessions -> L_MI: neighbours within a session share a theme, and all themes are used.

Shapes: U users, L history length, T themes, N items of the tables, P pairs.
"""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from training.model.batch import History

NEIGHBOUR_DISTANCES = (1, 3)
JOINT_FLOOR = 1e-9


def mutual_information_loss(routing_NT: Float[Tensor, "items themes"], history: History) -> Float[Tensor, ""]:
    """L_MI = -I(theme of an event; theme of its neighbour); from -log T (each session one theme, all used) to 0.

    Neighbours stand 1 or 3 events apart in one session and are different items. Zero where there are none.
    routing_NT: of each item by itself; rows sum to 1. Only the pairs that count are gathered.
    """
    item_UL, session_UL, mask_UL = history.item_index_UL, history.session_UL, history.mask_UL
    pairs = []
    for distance in NEIGHBOUR_DISTANCES:
        if distance >= item_UL.shape[1]:
            continue
        earlier, later = (slice(None), slice(None, -distance)), (slice(None), slice(distance, None))
        counts = mask_UL[earlier] & mask_UL[later] & (session_UL[earlier] == session_UL[later])
        counts = counts & (item_UL[earlier] != item_UL[later])
        pairs.append(torch.stack([item_UL[earlier][counts], item_UL[later][counts]]))
    earlier_P, later_P = torch.cat(pairs, dim=1) if pairs else item_UL.new_zeros(2, 0)
    joint_TT = functional.embedding(earlier_P, routing_NT).T @ functional.embedding(later_P, routing_NT)
    joint_TT = joint_TT + joint_TT.T
    joint_TT = joint_TT / joint_TT.sum().clamp(min=JOINT_FLOOR)
    marginal_T = joint_TT.sum(1)
    ratio_TT = (joint_TT + JOINT_FLOOR) / (marginal_T.unsqueeze(0) * marginal_T.unsqueeze(1) + JOINT_FLOOR)
    return -(joint_TT * torch.log(ratio_TT)).sum()
