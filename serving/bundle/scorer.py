"""A user's events and candidates, by the caller's own ids -> logits and themes. The pure core of the service.

Golden requests, package and the service all score by these lines; training's own path is compared in tests.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from contracts.schema import UNKNOWN_INDEX
from features.encoding.encode import EncodedHistory, FeatureSpec, encode_one, micros
from training.model.batch import Candidates, History, to_candidates, to_history
from training.model.build import Model
from training.model.mixture import MixtureOfSequence
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

    def between(self, start: int, end: int) -> "Events":
        """The events at positions [start, end)."""
        own = slice(start, end)
        return Events(self.item_ids[own], self.occurred_at[own], self.label[own], self.session[own])


NO_EVENTS = Events([], np.zeros(0, np.int64), np.zeros(0, np.float32), np.zeros(0, np.int64))


class Scores(NamedTuple):
    """One request's answer, in the order of its candidates."""

    logit_M: Float32
    theme_MT: Float32  # how much each candidate belongs to each theme; rows sum to 1; T is 0 of a model without themes
    current_T: Float32  # where the user is now; sums to 1


@dataclass(frozen=True)
class Scorer:
    """The model with what it needs to read ids."""

    model: Model
    tables: Tables  # what depends on items alone, computed once
    params: ModelParams
    spec: FeatureSpec
    index_of: dict[str, int]  # item_id -> item_index
    theme_NT: Float32  # the routing of every item, computed once; T is 0 of a model without themes
    cold_N: npt.NDArray[np.bool_]  # items without an embedding of their own: training saw them too rarely

    @classmethod
    def of(cls, model: Model, params: ModelParams, spec: FeatureSpec, index_of: dict[str, int]) -> "Scorer":
        """Route every item of the model's catalogue once, then move to the GPU where there is one."""
        cold_N = model.catalogue.row_of_N.numpy() == UNKNOWN_INDEX
        model.to("cuda" if torch.cuda.is_available() else "cpu")
        with torch.inference_mode():
            tables = model.tables()
        return cls(model, tables, params, spec, index_of, tables.routing_NT.cpu().numpy(), cold_N)

    @property
    def device(self) -> torch.device:
        """Where the model computes."""
        return self.model.catalogue.row_of_N.device

    def known_events(self, events: Events, at: int) -> int:
        """How many of the events, from the oldest on, are known at a time: those strictly before at - history_lag_s."""
        return int(np.searchsorted(events.occurred_at, at - micros(self.spec.history_lag_s), side="left"))

    def newest_events(self, events: Events, at: int, number: int) -> Events:
        """The newest of the events that are known at a time."""
        end = self.known_events(events, at)
        return events.between(max(0, end - number), end)

    def item_index(self, item_ids: Sequence[str]) -> Int64:
        """Embedding rows; UNKNOWN_INDEX where the vocabulary lacks the id."""
        return np.array([self.index_of.get(item_id, UNKNOWN_INDEX) for item_id in item_ids], np.int64)

    def encode(self, events: Events, at: int) -> EncodedHistory:
        """The model's view of a user at a time. Only the newest L known events are looked up."""
        known = self.newest_events(events, at, self.spec.history_length)
        return encode_one(self.spec, self.item_index(known.item_ids), known.occurred_at, known.label, known.session, at)

    def routing(self, encoded: EncodedHistory) -> Float32:
        """[L, T] how much each event of a history belongs to each theme, as the model routes it."""
        index_L = encoded.item_index.reshape(-1)
        if self.params.route == "item" or not isinstance(self.model, MixtureOfSequence):
            return self.theme_NT[index_L]
        history = History(*(column.to(self.device) for column in to_history(vars(encoded))))
        with torch.inference_mode():
            row_LX = self.tables.item_NX[torch.from_numpy(index_L.astype(np.int64)).to(self.device)]
            own = [self.params.width, self.params.num_themes]
            _, alone_LT, code_LR = row_LX.split([*own, row_LX.shape[1] - sum(own)], dim=1)
            routing_ULT = self.model.router.history(alone_LT.unsqueeze(0), code_LR.unsqueeze(0), history)
        return routing_ULT[0].cpu().numpy()

    def user_side(self, events: Events, at: int) -> Any:
        """The half of a request that is computed once: the model's own state, to be given to `score`."""
        history = to_history(vars(self.encode(events, at)))
        with torch.inference_mode():
            return self.model.user_side(History(*(column.to(self.device) for column in history)), self.tables)

    def score(self, state: Any, item_index: Int64, scalars: Float32) -> Scores:
        """Score M candidates for the one user of a state. scalars: [M, S]."""
        with torch.inference_mode():
            candidates = to_candidates(item_index, np.zeros(len(item_index), np.int64), scalars)
            on_device = Candidates(*(column.to(self.device) for column in candidates))
            logit_M = self.model.score(state, on_device, self.tables)
        current_T = np.zeros(0, np.float32)
        if self.model.has_router:
            current_T = state.current_UT[0].cpu().numpy()
        return Scores(logit_M.cpu().numpy(), self.theme_NT[item_index], current_T)
