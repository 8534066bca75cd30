"""Logits and routing -> losses.

Shapes: B impressions, U users, L history length, T themes.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

NEIGHBOUR_DISTANCES = (1, 3)
JOINT_FLOOR = 1e-9


def click_loss(logits_B: Float[Tensor, " impressions"], labels_B: Float[Tensor, " impressions"]) -> Float[Tensor, ""]:
    """Mean binary cross-entropy."""
    return functional.binary_cross_entropy_with_logits(logits_B, labels_B)


def listwise_loss(
    logits_B: Float[Tensor, " impressions"],
    labels_B: Float[Tensor, " impressions"],
    request_of_B: Int[Tensor, " impressions"],
    num_requests: int,
) -> Float[Tensor, ""]:
    """Softmax cross-entropy within a request, meaned over the requests that have a click; zero where none has.

    request_of_B: in [0, num_requests). A request's clicks share its probability equally. Source: Cao et al. 2007.
    """
    zeros_U = logits_B.new_zeros(num_requests)
    greatest_U = zeros_U.scatter_reduce(0, request_of_B, logits_B.detach(), "amax", include_self=False)
    shifted_B = logits_B - greatest_U[request_of_B]  # so that exp stays finite; the softmax is the same
    log_total_U = torch.log(zeros_U.index_add(0, request_of_B, shifted_B.exp()).clamp(min=JOINT_FLOOR))
    clicks_U = zeros_U.index_add(0, request_of_B, labels_B)
    share_B = labels_B / clicks_U.clamp(min=1)[request_of_B]
    surprise_B = share_B * (log_total_U[request_of_B] - shifted_B)
    return surprise_B.sum() / (clicks_U > 0).sum().clamp(min=1)


def mutual_information_loss(
    routing_ULT: Float[Tensor, "users length themes"],
    item_index_UL: Int[Tensor, "users length"],
    session_UL: Int[Tensor, "users length"],
    mask_UL: Bool[Tensor, "users length"],
) -> Float[Tensor, ""]:
    """L_MI = -I(theme of an event; theme of its neighbour); from -log T (each session one theme, all used) to 0.

    Neighbours stand 1 or 3 events apart in one session and are different items. Zero where there are none.
    routing_ULT: of each event by its item alone; rows sum to 1.
    """
    num_themes = routing_ULT.shape[-1]
    joint_TT = routing_ULT.new_zeros(num_themes, num_themes)
    for distance in NEIGHBOUR_DISTANCES:
        if distance >= routing_ULT.shape[1]:
            continue
        pairs = mask_UL[:, :-distance] & mask_UL[:, distance:]
        pairs = pairs & (session_UL[:, :-distance] == session_UL[:, distance:])
        pairs = pairs & (item_index_UL[:, :-distance] != item_index_UL[:, distance:])
        earlier = (routing_ULT[:, :-distance] * pairs.unsqueeze(-1)).flatten(0, 1)
        joint_TT = joint_TT + earlier.T @ routing_ULT[:, distance:].flatten(0, 1)
    joint_TT = joint_TT + joint_TT.T
    joint_TT = joint_TT / joint_TT.sum().clamp(min=JOINT_FLOOR)
    marginal_T = joint_TT.sum(1)
    ratio_TT = (joint_TT + JOINT_FLOOR) / (marginal_T.unsqueeze(0) * marginal_T.unsqueeze(1) + JOINT_FLOOR)
    return -(joint_TT * torch.log(ratio_TT)).sum()
