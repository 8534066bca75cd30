"""Values of one process of a distributed run -> their sum over all processes, with gradients; or all of them."""

from typing import Any, TypeVar

import torch
import torch.distributed
from jaxtyping import Float
from torch import Tensor

T = TypeVar("T")


def num_processes() -> int:
    """Number of processes of the current distributed run; 1 outside of one."""
    is_distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
    return torch.distributed.get_world_size() if is_distributed else 1


def over_processes(values: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """The sum over all processes; with one process, the values themselves."""
    if num_processes() == 1:
        return values
    return _Summed.apply(values)  # type: ignore[return-value]


def gathered(value: T) -> list[T]:
    """The values of all processes, in order of rank. All of them have to call it."""
    values: list = [value] * num_processes()
    if len(values) > 1:
        torch.distributed.all_gather_object(values, value)
    return values


class _Summed(torch.autograd.Function):
    """The sum over all processes. Every process's loss depends on it, so the gradient is summed too."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        total = values.clone()
        torch.distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return _Summed.forward(ctx, grad)
