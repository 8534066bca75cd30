"""A fitted model -> both sides as exported programs, which need torch but none of this project's code.

The item tables are constants of the programs. Shapes: U users and B impressions are dynamic, L is fixed.
"""

import shutil
import warnings
from pathlib import Path
from typing import Any

import jaxtyping
import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from contracts.errors import InputError
from training.model.batch import Candidates, History
from training.model.ranker import Ranker, Tables
from training.model.shape import ModelShape

USERS, IMPRESSIONS = "users", "impressions"
HALVES = ("user_side", "score")
MAX_USERS, MAX_IMPRESSIONS = 65_536, 1_048_576
SAID = 500
"""So much of what a compiler says is repeated."""


class UserSide(nn.Module):
    """The tensors of History, in its order -> those of the state."""

    def __init__(self, model: Ranker, tables: Tables) -> None:
        super().__init__()
        self.model, self.tables = model, _Constants(tables)

    def forward(self, *history: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.model.user_side(History(*history), self.tables()))


class Score(nn.Module):
    """The tensors of the state, then those of Candidates -> logits [B]."""

    def __init__(self, model: Ranker, tables: Tables, state: type[Any]) -> None:
        super().__init__()
        self.model, self.tables, self.state = model, _Constants(tables), state

    def forward(self, *given: Tensor) -> Tensor:
        of_state, of_candidates = given[: -len(Candidates._fields)], given[-len(Candidates._fields) :]
        return self.model.score(self.state(*of_state), Candidates(*of_candidates), self.tables())


def export_halves(model: Ranker, shape: ModelShape) -> dict[str, ExportedProgram]:
    """{user_side, score}: exact, for any number of users and of impressions.

    The model must be in eval mode and on the device where the programs will run. Raises InputError if it routes items
    by co-click codes: its item tables then depend on the request.
    """
    if model.has_router and shape.code_width:
        raise InputError(
            "This model routes items by who read them before each request, so its item tables cannot be constants of "
            "a program. Serve it with this project's code, or train with statistics.coclick_rank=0."
        )
    history, candidates = _example(model, shape)
    with torch.no_grad():
        tables = model.tables()
        state = model.user_side(history, tables)
    users = Dim(USERS, min=1, max=MAX_USERS)
    impressions = Dim(IMPRESSIONS, min=1, max=MAX_IMPRESSIONS)
    of_history = tuple({0: users} for _ in history)
    of_score = (*({0: users} for _ in state), *({0: impressions} for _ in candidates))
    checks = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)  # a shape check would make dynamic shapes constant
    try:
        with torch.no_grad():
            return {
                "user_side": torch.export.export(UserSide(model, tables), tuple(history), dynamic_shapes=(of_history,)),
                "score": torch.export.export(
                    Score(model, tables, type(state)), (*state, *candidates), dynamic_shapes=(of_score,)
                ),
            }
    finally:
        jaxtyping.config.update("jaxtyping_disable", checks)


def check_compiler() -> None:
    """Raise InputError if the C++ compiler that torch would call is not here."""
    from torch._inductor import config

    names = [name for name in config.cpp.cxx if name]
    if not any(map(shutil.which, names)):
        raise InputError(
            f"There is no C++ compiler called {' or '.join(names)}, which --compile needs. Install it, name another in "
            "the variable CXX (CXX=clang++), or leave --compile out."
        )


def compile_half(program: ExportedProgram, path: Path) -> None:
    """Write machine code with AOTInductor, which needs a C++ compiler here, but not where the code is loaded.

    Raises InputError if the compiler fails.
    """
    from torch._inductor.exc import CppCompileError, InductorError, InvalidCxxCompiler

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of torch's own modules
            torch._inductor.aoti_compile_and_package(program, package_path=str(path))
    except (CppCompileError, InductorError) as error:
        why = getattr(error, "inner_exception", error)
        if not isinstance(why, (CppCompileError, InvalidCxxCompiler)):
            raise
        said = getattr(why, "output", None) or str(why)
        raise InputError(
            f"The C++ compiler failed: {' '.join(said.split())[:SAID]}. Nothing was written. Install one that works "
            "(g++ with its headers), name another in the variable CXX, or leave --compile out."
        ) from error


class _Constants(nn.Module):
    """Tables as buffers, so that they become part of a program."""

    def __init__(self, tables: Tables) -> None:
        super().__init__()
        for name, value in tables._asdict().items():
            self.register_buffer(name, value.detach().clone())

    def forward(self) -> Tables:
        return Tables(*(getattr(self, name) for name in Tables._fields))


def _example(model: Ranker, shape: ModelShape) -> tuple[History, Candidates]:
    """Two users of full length and three impressions. Inputs are distinct tensors, since export merges shared ones."""
    device = model.catalogue.row_of_N.device
    whole = torch.zeros(2, model.params.history_length, dtype=torch.int64, device=device)
    item, label, rank, age, session = (whole.clone() for _ in range(5))
    history = History(item, label, rank, age, session, whole == 0, whole[:, 0].clone())
    item_B = torch.zeros(3, dtype=torch.int64, device=device)
    return history, Candidates(item_B, item_B.clone(), torch.zeros(3, shape.num_scalars, device=device))
