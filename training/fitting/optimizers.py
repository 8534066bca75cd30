"""A model and train.optimizer -> the optimizer of its weights; clipping by norm that supports sparse gradients.

A dense step updates every row of every embedding table; a sparse step only the rows that the batch has read, so its
cost does not grow with the catalogue. Their results differ: docs/benchmarks.md says what that costs in quality.
"""

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Adam, Optimizer

BETAS, EPSILON = (0.9, 0.999), 1e-8  # Adam's own
SPARSE_LEAST = 1_000
"""Tables with fewer rows always take dense steps, which are cheaper for them."""
SPARSE_FROM = 200_000
"""With train.optimizer: auto, tables of at least this many rows take sparse steps."""


class RowAdam(Optimizer):
    """Adam on the rows that have a gradient: same steps as torch.optim.SparseAdam, but faster, by gathering rows."""

    def __init__(
        self, params: Iterable[nn.Parameter], lr: float, betas: tuple[float, float] = BETAS, eps: float = EPSILON
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """One step of every table that has a gradient."""
        for group in self.param_groups:
            for table in group["params"]:
                if table.grad is not None:
                    grad = table.grad if table.grad.is_sparse else table.grad.to_sparse(1)  # the whole table was read
                    self._step(table, grad.coalesce(), group["lr"], group["betas"], group["eps"])

    def _step(self, table: nn.Parameter, grad: Tensor, lr: float, betas: tuple[float, float], eps: float) -> None:
        state = self.state[table]
        if not state:  # both moments of a row side by side: one memory access
            state["step"], state["moments"] = 0, table.new_zeros(len(table), 2, table.shape[1])
        state["step"] += 1
        rows, value = grad._indices()[0], grad._values()
        moments = state["moments"].index_select(0, rows)
        mean, square = moments[:, 0], moments[:, 1]
        mean.lerp_(value, 1 - betas[0])
        square.mul_(betas[1]).addcmul_(value, value, value=1 - betas[1])
        state["moments"].index_copy_(0, rows, moments)
        size = lr * math.sqrt(1 - betas[1] ** state["step"]) / (1 - betas[0] ** state["step"])
        table.index_add_(0, rows, mean / square.sqrt_().add_(eps), alpha=-size)


class RowsAndRest(Optimizer):
    """Two optimizers as one, since Lightning steps one: for tables with sparse gradients, and for all other weights."""

    def __init__(self, rows: Optimizer, rest: Optimizer) -> None:
        self.rows, self.rest = rows, rest
        super().__init__([*rows.param_groups, *rest.param_groups], {})

    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """One step of both optimizers."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self.rows.step()
        self.rest.step()
        return loss

    def state_dict(self) -> dict[str, Any]:
        """The states of both optimizers, by name."""
        return {"rows": self.rows.state_dict(), "rest": self.rest.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore both optimizers from state_dict."""
        self.rows.load_state_dict(state_dict["rows"])
        self.rest.load_state_dict(state_dict["rest"])
        self.param_groups = [*self.rows.param_groups, *self.rest.param_groups]  # loading made new ones


def choose_sparse(model: nn.Module, optimizer: str, num_processes: int = 1) -> int:
    """Switch embedding tables to sparse gradients as train.optimizer says. Returns how many were switched.

    sparse: tables of SPARSE_LEAST rows and more. auto: of SPARSE_FROM and more, in a run of one process.
    """
    least = {"sparse": SPARSE_LEAST, "auto": SPARSE_FROM if num_processes == 1 else None}.get(optimizer)
    tables = [module for module in model.modules() if isinstance(module, nn.Embedding)]
    for table in tables:
        table.sparse = table.weight.requires_grad and least is not None and table.num_embeddings >= least
    return sum(table.sparse for table in tables)


def make_optimizer(model: nn.Module, learning_rate: float, *, fused: bool = True) -> Optimizer:
    """Adam, and RowAdam for tables with sparse gradients (choose_sparse).

    fused: False if a gradient scaler (precision 16-mixed) has to see the gradients before the step.
    """
    of_rows = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding) and m.sparse}
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    rows = [parameter for parameter in trained if id(parameter) in of_rows]
    rest = Adam([each for each in trained if id(each) not in of_rows], learning_rate, fused=fused)
    return RowsAndRest(RowAdam(rows, learning_rate), rest) if rows else rest


def clip_by_norm(parameters: Iterable[nn.Parameter], limit: float) -> None:
    """Scale all gradients by one factor if their joint norm exceeds the limit."""
    values: list[Tensor] = []
    for parameter in parameters:
        if parameter.grad is None:
            continue
        if parameter.grad.is_sparse:
            parameter.grad = parameter.grad.coalesce()  # a row that was read twice has one gradient
            values.append(parameter.grad._values())
        else:
            values.append(parameter.grad)
    if not values:
        return
    norm = torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(value) for value in values]))
    scale = (limit / (norm + 1e-6)).clamp(max=1.0)
    for value in values:
        value.mul_(scale)
