"""A bundle's folder and the programs of its model -> a scorer without any code of the model: torch alone computes.

LEITMOTIF_PROGRAMS names the folder that `make export` wrote, from here or from beside the bundle; then no weights are
read and `training` need not be installed. Not for models that route sessions, or items by who read them.
"""

import json
import os
from collections import namedtuple
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from contracts.errors import InputError
from features.encoding.encode import EncodedHistory, FeatureSpec
from serving.bundle.programs import DESCRIPTION, TABLES, Programs, load_half, processor
from serving.bundle.scorer import Events, Float32, Int64, Scorer, Scores

if TYPE_CHECKING:
    from training.model.build import Model
    from training.model.params import ModelParams
    from training.model.ranker import Tables

VARIABLE = "LEITMOTIF_PROGRAMS"
AGAIN = "`make export` makes them again"


class Named(NamedTuple):
    """What a service asks of a model beside its scores."""

    has_router: bool


class Sizes(NamedTuple):
    """What a service asks of a model's params."""

    width: int
    num_themes: int
    num_candidate_themes: int


class Constants(NamedTuple):
    """The tables of the catalogue, which the programs hold too."""

    item_NX: Tensor
    routing_NT: Tensor


@dataclass(frozen=True, kw_only=True)
class ProgramScorer(Scorer):
    """A scorer that calls both halves as exported. `programs`, if any, are the same halves as machine code."""

    halves: Programs
    columns: tuple[str, ...]  # of an encoded history, in the order in which the first half takes them
    state: type  # the NamedTuple of what it returns

    @property
    def device(self) -> torch.device:
        """The device for which the programs were exported."""
        return self.tables.item_NX.device

    def user_side(self, events: Events, at: int, code_NF: Float32 | None = None) -> Any:
        """As Scorer's."""
        encoded = self.encode(events, at)
        with torch.no_grad():  # as in Scorer: guards of a loaded program cannot read the sizes of inference tensors
            return self.state(*self._halves.user_side(*self._inputs(encoded)))

    def score(self, state: Any, item_index: Int64, scalars: Float32, code_MF: Float32 | None = None) -> Scores:
        """As Scorer's."""
        logit_M = np.zeros(0, np.float32)
        if len(item_index):  # programs take one candidate at least
            user_of = np.zeros(len(item_index), np.int64)
            candidates = (item_index.astype(np.int64), user_of, np.ascontiguousarray(scalars, np.float32))
            with torch.no_grad():
                given = (torch.from_numpy(each).to(self.device) for each in candidates)
                logit_M = self._halves.score(*state, *given).cpu().numpy()
        current_T = state.current_UT[0].cpu().numpy() if self.model.has_router else np.zeros(0, np.float32)
        return Scores(logit_M, self.theme_NT[item_index], current_T)

    def routing(self, encoded: EncodedHistory, code_NF: Float32 | None = None) -> Float32:
        """As Scorer's: events are routed by their items alone."""
        return self.theme_NT[encoded.item_index.reshape(-1)]

    @property
    def _halves(self) -> Programs:
        return self.programs or self.halves

    def _inputs(self, encoded: EncodedHistory) -> list[Tensor]:
        arrays = (getattr(encoded, name) for name in self.columns)
        kinds = (np.bool_ if name == "mask" else np.int64 for name in self.columns)
        return [
            torch.from_numpy(np.ascontiguousarray(array, kind)).to(self.device)
            for array, kind in zip(arrays, kinds, strict=True)
        ]


def find_programs_of(bundle: Path) -> Path | None:
    """The folder that LEITMOTIF_PROGRAMS names: from here, or from beside the bundle; None if it is not set."""
    if not (named := os.environ.get(VARIABLE)):
        return None
    here = Path(named)
    return here if here.exists() else bundle.parent / named


def open_program_scorer(
    folder: Path, bundle_hash: str, params: dict[str, Any], spec: FeatureSpec, index_of: dict[str, int]
) -> ProgramScorer:
    """Load both halves and the tables. params: of the bundle's model.json. Raises InputError where they do not fit."""
    described = _described(folder)
    device = "cuda:0" if torch.cuda.is_available() else "cpu"
    here = {"bundle_hash": bundle_hash, "torch": torch.__version__, "device": device}
    if described.get("compiled"):
        here["processor"] = processor()
    if others := [name for name, value in here.items() if described.get(name) != value]:
        made = ", ".join(f"{name} {described.get(name)}, here {here[name]}" for name in others)
        raise InputError(f"The programs in {folder} are for another {', '.join(others)} ({made}). {AGAIN}.")
    if params["route"] != "item" and described["has_router"]:
        raise InputError(
            f"The programs in {folder} are of a model with model.route {params['route']}: which theme an event belongs "
            f"to then takes the model's code. Start without {VARIABLE}, or train with model.route=item."
        )
    tables = load_file(folder / TABLES, device)
    halves = (load_half(folder / f"{name}.pt2", compiled=described["compiled"]) for name in Programs._fields)
    return ProgramScorer(
        model=cast("Model", Named(described["has_router"])),
        tables=cast("Tables", Constants(tables["item_NX"], tables["routing_NT"])),
        params=cast("ModelParams", Sizes(*(params[name] for name in Sizes._fields))),
        spec=spec,
        index_of=index_of,
        theme_NT=tables["routing_NT"].cpu().numpy(),
        cold_N=tables["cold_N"].cpu().numpy(),
        halves=Programs(*halves),
        columns=tuple(described["columns"]),
        state=namedtuple("State", described["state"]),
    )


def _described(folder: Path) -> dict[str, Any]:
    try:
        described = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
        missing = [key for key in ("compiled", "has_router", "columns", "state") if key not in described]
    except FileNotFoundError:
        raise InputError(f"{VARIABLE} is {folder}, where there is no {DESCRIPTION}. `make export` makes one.") from None
    except (OSError, ValueError, TypeError) as error:
        raise InputError(f"{folder / DESCRIPTION} cannot be read: {error}. {AGAIN}.") from error
    if missing:
        raise InputError(f"{folder / DESCRIPTION} lacks {', '.join(missing)}: an older version wrote it. {AGAIN}.")
    return described
