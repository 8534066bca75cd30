"""A bundle's model -> both its halves as traced by PyTorch: the same operators in the same order, without Python.

Tracing needs no compiler and takes a fifth of a CPU second at the start. Tables of the catalogue are inputs of a trace
and not constants, so that they are held once.
"""

import logging
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from serving.bundle.programs import Programs
from serving.bundle.scorer import NO_EVENTS, Scorer

if TYPE_CHECKING:
    from training.model.batch import Candidates, History

EXAMPLE = 3
"""Number of candidates of the traced example."""
TRIED = (1, 2, 101)
"""Numbers of candidates for which a trace is compared with the model."""
TOLERANCE = 1e-5

log = logging.getLogger("leitmotif")


class Traced(NamedTuple):
    """One half with the tables of the catalogue, which it takes first."""

    half: Callable[..., Any]
    tables: tuple[Tensor, ...]

    def __call__(self, *given: Tensor) -> Any:
        with torch.inference_mode():  # a tenth faster than no_grad, which exported programs need (programmed.py)
            return self.half(*self.tables, *given)


def trace(scorer: Scorer) -> Programs | None:
    """Both halves for requests of one user; None for a model that cannot be traced, which PyTorch scores as before.

    Models whose tables depend on the request (item codes) and programs that were exported are not traced.
    """
    if type(scorer) is not Scorer or scorer.reads_codes:
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # no branch depends on values: `make export` takes no model with one
            halves = _traced(scorer)
        _check(scorer, halves)
    except Exception as error:  # torch raises different ones
        log.warning("The model cannot be traced, so it is not (%s: %s)", type(error).__name__, error)
        return None
    return halves


def _traced(scorer: Scorer) -> Programs:
    from training.model.batch import Candidates, History
    from training.model.ranker import Tables

    model, tables, history = scorer.model, scorer.tables, _history(scorer)
    with torch.no_grad():
        state = model.user_side(history, tables)
    num_tables, num_before = len(tables), len(tables) + len(state)

    def user_side(*given: Tensor) -> tuple[Tensor, ...]:
        return tuple(model.user_side(History(*given[num_tables:]), Tables(*given[:num_tables])))

    def score(*given: Tensor) -> Tensor:
        own = type(state)(*given[num_tables:num_before])
        return model.score(own, Candidates(*given[num_before:]), Tables(*given[:num_tables]))

    halves = (
        _frozen(model, user_side, (*tables, *history)),
        _frozen(model, score, (*tables, *state, *_candidates(scorer, EXAMPLE))),
    )
    return Programs(*(Traced(half, tuple(tables)) for half in halves))


def _frozen(model: nn.Module, forward: Callable[..., Any], example: tuple[Tensor, ...]) -> Callable[..., Any]:
    with torch.no_grad():
        given = tuple(each.clone() for each in example)  # no inference tensors, and no two the same
        return torch.jit.freeze(torch.jit.trace(_Half(model, forward).eval(), given, check_trace=False))


class _Half(nn.Module):
    """A function of a model as a module that owns the model: weights must belong to the module that is traced."""

    def __init__(self, model: nn.Module, forward: Callable[..., Any]) -> None:
        super().__init__()
        self.model = model
        self._forward = forward

    def forward(self, *given: Tensor) -> Any:
        return self._forward(*given)


def _check(scorer: Scorer, halves: Programs) -> None:
    """Raise AssertionError if the trace scores any number of candidates otherwise than the model."""
    history = _history(scorer)
    with torch.no_grad():
        state, traced = scorer.model.user_side(history, scorer.tables), halves.user_side(*history)
        for number in TRIED:
            candidates = _candidates(scorer, number)
            wanted = scorer.model.score(state, candidates, scorer.tables)
            torch.testing.assert_close(halves.score(*traced, *candidates), wanted, rtol=TOLERANCE, atol=TOLERANCE)


def _history(scorer: Scorer) -> "History":
    """One user whose every slot is a click on the item that stands for unknown ones."""
    from training.model.batch import History, to_history

    encoded = vars(scorer.encode(NO_EVENTS, 0))
    full = {name: np.ones_like(encoded[name]) for name in ("item_index", "label", "age_bucket", "mask")}
    return History(*(column.to(scorer.device) for column in to_history(encoded | full)))


def _candidates(scorer: Scorer, number: int) -> "Candidates":
    from training.model.batch import Candidates, to_candidates

    index = np.arange(number) % len(scorer.theme_NT)
    scalars = np.zeros((number, len(scorer.spec.scalars)), np.float32)
    made = to_candidates(index, np.zeros(number, np.int64), scalars)
    return Candidates(*(column.to(scorer.device) for column in made))
