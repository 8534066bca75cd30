"""Requests -> batches: each request's history encoded once, and all its candidates flat with a pointer to it."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from contracts.schema import FIRST_INDEX
from features.encoding.asked import Asked, recent_of_histories
from features.encoding.counters import Counters
from features.encoding.encode import EncodedHistory, FeatureSpec, encode_histories
from features.encoding.scalars import scalar_features
from features.terms.convention import RECENT, is_click
from training.model.batch import Candidates, History, to_candidates, to_history
from training.requests.reader import Events, Requests, rows_of

ENCODED_AT_ONCE = 65_536


class Batch(NamedTuple):
    """Some requests: the user's half once each, their candidates, and what became of them."""

    history: History
    candidates: Candidates
    label_B: Tensor


class RequestDataset(Dataset[Batch]):
    """Requests by position. A batch is made as a whole (__getitems__), without a Python loop over its rows."""

    def __init__(self, spec: FeatureSpec, events: Events, requests: Requests, scalars: npt.NDArray[np.float32]) -> None:
        self.spec, self.events, self.requests, self.scalars = spec, events, requests, scalars

    def __len__(self) -> int:
        return len(self.requests)

    def __getitem__(self, position: int) -> Batch:
        return self.__getitems__([position])

    def __getitems__(self, positions: Sequence[int] | npt.NDArray[np.int64]) -> Batch:
        chosen = np.asarray(positions, np.int64)
        rows, row_starts = rows_of(self.requests.row_starts, chosen)
        user_of = np.repeat(np.arange(len(chosen)), np.diff(row_starts))
        return Batch(
            self.history(chosen),
            to_candidates(self.requests.item_index[rows], user_of, self.scalars[rows]),
            torch.from_numpy(is_click(self.requests.label[rows]).astype(np.float32)),
        )

    def history(self, chosen: npt.NDArray[np.int64]) -> History:
        """The encoded histories of the requests at these positions."""
        return to_history(vars(encode_requests(self.spec, self.events, self.requests, chosen)))


def encode_requests(
    spec: FeatureSpec, events: Events, requests: Requests, chosen: npt.NDArray[np.int64]
) -> EncodedHistory:
    """The histories of the requests at these positions."""
    return encode_histories(
        spec,
        events.item_index,
        events.occurred_at,
        events.label,
        events.session,
        requests.starts[chosen],
        requests.ends[chosen],
        requests.at[chosen],
    )


def make_dataset(spec: FeatureSpec, events: Events, requests: Requests, counters: Counters) -> RequestDataset:
    """Read the scalar features of all rows as of their request's time, then batch on demand."""
    return RequestDataset(spec, events, requests, read_scalars(spec, events, requests, counters))


def read_scalars(spec: FeatureSpec, events: Events, requests: Requests, counters: Counters) -> npt.NDArray[np.float32]:
    """[N, S] the scalar features of all rows, each as of its request's time."""
    asked = Asked(
        user_keys=requests.user_index.astype(np.int64),
        at=requests.at,
        recent=_recent(spec, events, requests),
        reading=requests.reading.astype(np.int64) - FIRST_INDEX,
        is_subscriber=requests.is_subscriber,
        device=requests.device,
    )
    return scalar_features(spec, counters, requests.item_index - FIRST_INDEX, requests.request_of_row, asked)


def _recent(spec: FeatureSpec, events: Events, requests: Requests) -> npt.NDArray[np.int64]:
    """[R, RECENT] the newest clicks before each request."""
    short = replace(spec, history_length=RECENT)
    made = [np.zeros((0, RECENT), np.int64)]
    for chosen in positions_in_order(len(requests), ENCODED_AT_ONCE):
        made.append(recent_of_histories(encode_requests(short, events, requests, chosen)))
    return np.concatenate(made)


def shuffled(dataset: RequestDataset, batch_requests: int, seed: int) -> DataLoader[Batch]:
    """Batches in an order that the seed decides, another in every epoch."""
    generator = torch.Generator().manual_seed(seed)
    return DataLoader(dataset, batch_requests, shuffle=True, generator=generator, collate_fn=_as_made)


def in_order(dataset: RequestDataset, batch_requests: int) -> DataLoader[Batch]:
    """Batches in the order of the requests."""
    return DataLoader(dataset, batch_requests, shuffle=False, collate_fn=_as_made)


def positions_in_order(num_requests: int, batch_requests: int) -> Iterator[npt.NDArray[np.int64]]:
    """The same batches as positions."""
    for first in range(0, num_requests, batch_requests):
        yield np.arange(first, min(first + batch_requests, num_requests))


def _as_made(batch: Any) -> Batch:
    return batch
