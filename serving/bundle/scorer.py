"""A user's events and candidates, by id -> logits and themes. The core of the service, without I/O.

Golden requests, package and the service all score with this code; tests compare it with training's.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import repeat
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from contracts.schema import UNKNOWN_INDEX
from features.encoding.encode import EncodedHistory, FeatureSpec, encode_one, micros
from serving.bundle.programs import Programs

if TYPE_CHECKING:  # the model's code is imported where it computes: programs need none of it (programmed.py)
    from training.model.batch import Candidates, History
    from training.model.build import Model
    from training.model.params import ModelParams
    from training.model.ranker import Tables

Int64 = npt.NDArray[np.int64]
Float32 = npt.NDArray[np.float32]


class Events(NamedTuple):
    """One user's events in time order."""

    item_ids: Sequence[str]
    occurred_at: Int64  # us
    label: Float32
    session: Int64
    counted: bytes | None = None  # the user's counts, from the same read of the store; None: not read

    def between(self, start: int, end: int) -> "Events":
        """The events at positions [start, end)."""
        own = slice(start, end)
        return Events(self.item_ids[own], self.occurred_at[own], self.label[own], self.session[own], self.counted)


NO_EVENTS = Events([], np.zeros(0, np.int64), np.zeros(0, np.float32), np.zeros(0, np.int64), b"")


class Scores(NamedTuple):
    """The result of one request, in the order of its candidates."""

    logit_M: Float32
    theme_MT: Float32  # each candidate's shares of themes; T is 0 for a model without themes
    """Rows sum to 1, or are 0 if nothing is known of the candidate."""
    current_T: Float32  # the user's current shares of themes; sums to 1


@dataclass(frozen=True)
class Scorer:
    """A model with the mappings and tables that it needs to score ids."""

    model: "Model"
    tables: "Tables"  # the part that depends on items only, computed once
    params: "ModelParams"
    spec: FeatureSpec
    index_of: dict[str, int]  # item_id -> item_index
    theme_NT: Float32  # routing of every item by its embedding, computed once; T is 0 for a model without themes
    cold_N: npt.NDArray[np.bool_]  # items without their own embedding, since training saw them too rarely
    programs: Programs | None = None  # machine code of both halves; None: PyTorch computes them

    @classmethod
    def of(cls, model: "Model", params: "ModelParams", spec: FeatureSpec, index_of: dict[str, int]) -> "Scorer":
        """Move the model to the GPU, if there is one, and compute the tables of its catalogue."""
        cold_N = model.catalogue.row_of_N.numpy() == UNKNOWN_INDEX
        model.to("cuda" if torch.cuda.is_available() else "cpu")
        with torch.inference_mode():
            tables = model.tables()
        return cls(model, tables, params, spec, index_of, tables.routing_NT.cpu().numpy(), cold_N)

    @property
    def device(self) -> torch.device:
        """The device of the model."""
        return self.model.catalogue.row_of_N.device

    def known_events(self, events: Events, at: int) -> int:
        """Number of events that are known at a time: those strictly before at - history_lag_s."""
        return int(np.searchsorted(events.occurred_at, at - micros(self.spec.history_lag_s), side="left"))

    def newest_events(self, events: Events, at: int, number: int) -> Events:
        """The newest `number` events that are known at a time."""
        end = self.known_events(events, at)
        return events.between(max(0, end - number), end)

    def item_index(self, item_ids: Sequence[str]) -> Int64:
        """The item_index of ids; UNKNOWN_INDEX where the vocabulary lacks the id."""
        return np.array(list(map(self.index_of.get, item_ids, repeat(UNKNOWN_INDEX))), np.int64)

    def encode(self, events: Events, at: int) -> EncodedHistory:
        """Encode the newest L known events of a user at a time."""
        known = self.newest_events(events, at, self.spec.history_length)
        return encode_one(self.spec, self.item_index(known.item_ids), known.occurred_at, known.label, known.session, at)

    def routing(self, encoded: EncodedHistory, code_NF: Float32 | None = None) -> Float32:
        """[L, T] shares of themes of each event of a history, as routed by the model.

        code_NF: as for user_side.
        """
        from training.model.mixture import MixtureOfSequence

        index_L, row_NX = encoded.item_index.reshape(-1).astype(np.int64), self.tables.item_NX
        if not isinstance(self.model, MixtureOfSequence):
            return self.theme_NT[index_L]
        if self.reads_codes:
            code_LF = self._aligned(encoded, code_NF)
            with torch.inference_mode():
                places, tables = self._tables_of(torch.from_numpy(index_L).to(self.device), code_LF)
            index_L, row_NX = places.cpu().numpy(), tables.item_NX
            if self.params.route == "item":
                return tables.routing_NT.cpu().numpy()
        elif self.params.route == "item":
            return self.theme_NT[index_L]
        history = self._history(encoded)
        with torch.inference_mode():
            row_LX = row_NX[torch.from_numpy(index_L).to(self.device)]
            own = [self.params.width, self.params.num_themes]
            _, alone_LT, code_LR = row_LX.split([*own, row_LX.shape[1] - sum(own)], dim=1)
            routing_ULT = self.model.router.history(alone_LT.unsqueeze(0), code_LR.unsqueeze(0), history)
        return routing_ULT[0].cpu().numpy()

    def user_side(self, events: Events, at: int, code_NF: Float32 | None = None) -> Any:
        """The user's half of a request: the model's state, which is passed to `score`.

        code_NF: codes of newest_events(events, at, L) as of that time; None: the spec has no codes.
        """
        encoded = self.encode(events, at)
        history = self._history(encoded)
        if self.programs is not None:
            with torch.no_grad():
                return self.state_type(*self.programs.user_side(*history))
        with torch.inference_mode():
            if not self.reads_codes:
                return self.model.user_side(history, self.tables)
            places_UL, tables = self._tables_of(history.item_index_UL, self._aligned(encoded, code_NF))
            return self.model.user_side(history._replace(item_index_UL=places_UL), tables)

    def score(self, state: Any, item_index: Int64, scalars: Float32, code_MF: Float32 | None = None) -> Scores:
        """Score M candidates for the user of a state. scalars: [M, S]. code_MF: codes of the candidates."""
        on_device, tables = self.candidates(item_index, scalars, code_MF)
        theme_MT = tables.routing_NT.cpu().numpy() if self.reads_codes else self.theme_NT[item_index]
        if self.programs is not None and len(item_index):
            with torch.no_grad():
                logit_M = self.programs.score(*state, *on_device)
        else:
            with torch.inference_mode():
                logit_M = self.model.score(state, on_device, tables)
        current_T = np.zeros(0, np.float32)
        if self.model.has_router:
            current_T = state.current_UT[0].cpu().numpy()
        return Scores(logit_M.cpu().numpy(), theme_MT, current_T)

    def candidates(
        self, item_index: Int64, scalars: Float32, code_MF: Float32 | None = None
    ) -> "tuple[Candidates, Tables]":
        """(M candidates for one user on the model's device, the tables that their positions refer to)."""
        from training.model.batch import Candidates, to_candidates

        candidates = to_candidates(item_index, np.zeros(len(item_index), np.int64), scalars)
        with torch.inference_mode():
            on_device = Candidates(*(column.to(self.device) for column in candidates))
            if not self.reads_codes:
                return on_device, self.tables
            places_B, tables = self._tables_of(on_device.item_index_B, _given(code_MF))
            return on_device._replace(item_index_B=places_B), tables

    def current(self, events: Events, at: int, code_NF: Float32 | None = None) -> Float32:
        """[T] the user's current shares of themes, as in Scores; T is 0 without themes. code_NF: as for user_side."""
        if not self.model.has_router:
            return np.zeros(0, np.float32)
        return self.user_side(events, at, code_NF).current_UT[0].cpu().numpy()

    @cached_property
    def state_type(self) -> type:
        """The NamedTuple that user_side returns."""
        return type(replace(self, programs=None).user_side(NO_EVENTS, 0))

    @property
    def reads_codes(self) -> bool:
        """Whether the model routes items by co-click codes too."""
        return self.model.has_router and self.spec.code_width > 0

    def themes(self, item_index: Int64, code_MF: Float32) -> Float32:
        """[M, T] items' shares of themes, by co-click codes too; T is 0 for a model without themes."""
        if not self.reads_codes:
            return self.theme_NT[item_index]
        with torch.inference_mode():
            _, tables = self._tables_of(torch.from_numpy(item_index).to(self.device), code_MF)
            return tables.routing_NT.cpu().numpy()

    def _history(self, encoded: EncodedHistory) -> "History":
        from training.model.batch import History, to_history

        return History(*(column.to(self.device) for column in to_history(vars(encoded))))

    def _aligned(self, encoded: EncodedHistory, code_NF: Float32 | None) -> Float32:
        code_LF = np.zeros((self.spec.history_length, self.spec.code_width), np.float32)
        code_LF[encoded.mask[0]] = _given(code_NF)
        return code_LF

    def _tables_of(self, item_index: Tensor, code_NF: Float32) -> "tuple[Tensor, Tables]":
        """(positions, tables) of a request's items as of its time; the tables contain only these items."""
        from training.model.ranker import Items

        items = Items(item_index.flatten(), torch.from_numpy(code_NF).to(self.device))
        places = torch.arange(item_index.numel(), device=self.device).view_as(item_index)
        return places, self.model.tables(items)


def _given(codes: Float32 | None) -> Float32:
    if codes is None:
        raise ValueError("the model needs item codes, but none were given (features/encoding/item_codes.py)")
    return codes
