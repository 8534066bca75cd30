"""Logits and labels -> the loss of the clicks.

Shapes: B impressions, U users (requests).
"""

import torch
import torch.distributed
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from training.model.processes import num_processes

TOTAL_FLOOR = 1e-9


def click_loss(logits_B: Float[Tensor, " impressions"], labels_B: Float[Tensor, " impressions"]) -> Float[Tensor, ""]:
    """Mean binary cross-entropy."""
    return functional.binary_cross_entropy_with_logits(logits_B, labels_B)


def listwise_loss(
    logits_B: Float[Tensor, " impressions"],
    labels_B: Float[Tensor, " impressions"],
    request_of_B: Int[Tensor, " impressions"],
    num_requests: int,
) -> Float[Tensor, ""]:
    """Softmax cross-entropy within a request, averaged over the requests with a click; zero if there are none.

    request_of_B: in [0, num_requests). A request's clicks share the target equally. Source: ListNet, Cao et al. 2007.
    """
    zeros_U = logits_B.new_zeros(num_requests)
    greatest_U = zeros_U.scatter_reduce(0, request_of_B, logits_B.detach(), "amax", include_self=False)
    shifted_B = logits_B - greatest_U[request_of_B]  # keeps exp finite; the softmax does not change
    log_total_U = torch.log(zeros_U.index_add(0, request_of_B, shifted_B.exp()).clamp(min=TOTAL_FLOOR))
    clicks_U = zeros_U.index_add(0, request_of_B, labels_B)
    share_B = labels_B / clicks_U.clamp(min=1)[request_of_B]
    surprise_B = share_B * (log_total_U[request_of_B] - shifted_B)
    return surprise_B.sum() / (clicks_U > 0).sum().clamp(min=1)


def share_of_mean(mean: Float[Tensor, ""], number: int | Tensor) -> Float[Tensor, ""]:
    """Scale this process's mean so that the average over processes, as DDP takes it, is the mean over all rows.

    mean: over the rows of this process. number: how many rows; it may differ between processes.
    """
    if num_processes() == 1:
        return mean
    mine = torch.as_tensor(number, dtype=mean.dtype, device=mean.device)
    total = mine.clone()
    torch.distributed.all_reduce(total)
    return mean * (mine * num_processes() / total.clamp(min=1))
