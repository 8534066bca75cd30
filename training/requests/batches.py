"""Requests -> batches: the encoded history of each request, and its candidates in one flat list.

Scalar features of all rows are computed once, in chunks of requests: into a memory-mapped file, so that memory does
not grow with the impressions, or into memory if no file is given.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from mmap import mmap
from pathlib import Path
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
from features.encoding.item_codes import item_codes
from features.encoding.scalars import scalar_features
from features.terms.convention import RECENT, is_click
from training.model.batch import Candidates, Codes, History, to_candidates, to_history
from training.requests.moments import Moments
from training.requests.reader import Events, Ints, Requests, rows_of
from training.requests.sampler import BatchSampler, Share, share_out

ENCODED_AT_ONCE = 65_536
READ_AT_ONCE = 4_096
"""Requests per chunk when scalars are computed or read."""


class Batch(NamedTuple):
    """Some requests: a history each, their candidates, and the labels."""

    history: History
    candidates: Candidates
    label_B: Tensor
    request_U: Tensor  # positions in the dataset
    user_U: Tensor  # user_index
    counts: bool = True  # False: an empty batch for the step of other processes; its loss is zero
    codes: Codes | None = None  # None where the log has no codes


class RequestDataset(Dataset[Batch]):
    """Requests by position. A batch is built at once (__getitems__), without a Python loop over its rows."""

    def __init__(
        self,
        spec: FeatureSpec,
        events: Events,
        requests: Requests,
        scalars: npt.NDArray[np.float32],
        counters: Counters | None = None,
        largest_share: int | None = None,
    ) -> None:
        """counters: source of the items' co-click codes, read per batch; None: the spec has no codes.

        largest_share: where this is one process's share of the requests, size of the largest; None: it is the whole.
        """
        self.spec, self.events, self.requests, self.scalars = spec, events, requests, scalars
        self.counters = counters if spec.code_width else None
        self.largest_share = largest_share

    def __len__(self) -> int:
        return len(self.requests)

    def __getitem__(self, position: int) -> Batch:
        return self.__getitems__([position])

    def __getitems__(self, positions: Sequence[int] | npt.NDArray[np.int64]) -> Batch:
        """The requests at these positions, in that order; a single ~position gives a batch that does not count."""
        chosen = np.asarray(positions, np.int64)
        counts = not (chosen < 0).any()
        chosen = chosen if counts else ~chosen
        rows, row_starts = rows_of(self.requests.row_starts, chosen)
        user_of = np.repeat(np.arange(len(chosen)), np.diff(row_starts))
        items, history = self.requests.item_index[rows], self.history(chosen)
        if not counts:
            history = history._replace(mask_UL=torch.zeros_like(history.mask_UL))
        return Batch(
            history,
            to_candidates(items, user_of, self.scalars[rows]),
            torch.from_numpy(is_click(self.requests.label[rows]).astype(np.float32)),
            torch.from_numpy(chosen),
            torch.from_numpy(self.requests.user_index[chosen].astype(np.int64)),
            counts,
            self._codes(history, items, self.requests.at[chosen], user_of),
        )

    def history(self, chosen: npt.NDArray[np.int64]) -> History:
        """The encoded histories of the requests at these positions."""
        return to_history(vars(encode_requests(self.spec, self.events, self.requests, chosen)))

    def _codes(
        self,
        history: History,
        items: Ints,
        at: npt.NDArray[np.int64],
        user_of: npt.NDArray[np.int64],
    ) -> Codes | None:
        if not self.spec.code_width:
            return None
        if (counters := self.counters) is None:
            raise ValueError("the spec has item codes, but the dataset got no counters: pass counters")
        asked = (history.item_index_UL.numpy(), at[:, None]), (items.astype(np.int64), at[user_of])
        return Codes(
            *(torch.from_numpy(item_codes(self.spec, counters, index - FIRST_INDEX, when)) for index, when in asked)
        )

    def share(self, process: int, num_processes: int) -> Share:
        """The requests of one of the processes that train on this dataset."""
        if self.largest_share is not None:
            return Share(np.arange(len(self)), self.largest_share)
        shares = share_out(self.requests.user_index, num_processes)
        return Share(shares[process], max(len(each) for each in shares))

    def standardisation(self) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """(mean, standard deviation) of each scalar over all rows."""
        return self.moments().standardisation()

    def moments(self) -> Moments:
        """The moments of each scalar over all rows."""
        moments = Moments.none(self.scalars.shape[1])
        for chosen in positions_in_order(len(self), READ_AT_ONCE):
            rows = self.requests.row_starts[[chosen[0], chosen[-1] + 1]]
            values = self.scalars[rows[0] : rows[1]].astype(np.float64)
            if len(values):
                moments = moments.merged(Moments(len(values), values.mean(axis=0), values.var(axis=0) * len(values)))
        return moments

    def __getstate__(self) -> dict[str, Any]:
        """Memory-mapped arrays are pickled as path and offset, not as content."""
        events = {name: _place(values) for name, values in vars(self.events).items()}
        return {**vars(self), "events": events, "scalars": _place(self.scalars)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        events = Events(**{name: _opened(place) for name, place in state["events"].items()})
        vars(self).update({**state, "events": events, "scalars": _opened(state["scalars"])})


def encode_requests(
    spec: FeatureSpec, events: Events, requests: Requests, chosen: npt.NDArray[np.int64]
) -> EncodedHistory:
    """The encoded histories of the requests at these positions."""
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


def make_dataset(
    spec: FeatureSpec,
    events: Events,
    requests: Requests,
    counters: Counters,
    file: Path | None = None,
    largest_share: int | None = None,
) -> RequestDataset:
    """Compute the scalar features of all rows as of their request's time; batches are built on demand.

    file: a .npy file that holds the scalars and is memory-mapped; None: in memory.
    """
    if file is None:
        scalars = read_scalars(spec, events, requests, counters)
    else:
        write_scalars(file, spec, events, requests, counters)
        scalars = np.load(file, mmap_mode="r")
    return RequestDataset(spec, events, requests, scalars, counters, largest_share)


def write_scalars(file: Path, spec: FeatureSpec, events: Events, requests: Requests, counters: Counters) -> None:
    """Write read_scalars to a .npy file, READ_AT_ONCE requests at a time."""
    file.parent.mkdir(parents=True, exist_ok=True)
    shape = (len(requests.label), len(spec.scalars))
    with file.open("wb") as handle:
        header = {"descr": np.lib.format.dtype_to_descr(np.dtype(np.float32)), "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(handle, header)
        for chosen in positions_in_order(len(requests), READ_AT_ONCE):
            read_scalars(spec, events, requests.take(chosen), counters).tofile(handle)


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
    recent = [np.zeros((0, RECENT), np.int64)]
    for chosen in positions_in_order(len(requests), ENCODED_AT_ONCE):
        recent.append(recent_of_histories(encode_requests(short, events, requests, chosen)))
    return np.concatenate(recent)


class RequestLoader(DataLoader[Batch]):
    """A DataLoader that counts the batches of its epoch, which Lightning saves in its checkpoints."""

    def __init__(self, dataset: RequestDataset, sampler: BatchSampler) -> None:
        generator = torch.Generator()  # of its own: iterating draws a number, which would change the model's dropout
        super().__init__(dataset, batch_sampler=sampler, generator=generator, collate_fn=_as_made)
        self._given = 0

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]
        self._given = 0
        return self._counted(super().__iter__())

    def _counted(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        for batch in batches:
            self._given += 1
            yield batch

    def state_dict(self) -> dict[str, Any]:
        """The sampler's state at the next batch."""
        state = self._sampler.state_dict()
        return state | {"position": state["position"] + self._given}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from that batch."""
        self._sampler.load_state_dict(state)
        self._given = 0

    @property
    def _sampler(self) -> BatchSampler:
        assert isinstance(self.batch_sampler, BatchSampler)
        return self.batch_sampler


def shuffled(
    dataset: RequestDataset, batch_requests: int, seed: int, process: int = 0, num_processes: int = 1
) -> RequestLoader:
    """Batches shuffled by the seed, in another order every epoch; each process gets batches of its users' requests."""
    return RequestLoader(
        dataset, BatchSampler(len(dataset), batch_requests, seed, dataset.share(process, num_processes))
    )


def in_order(dataset: RequestDataset, batch_requests: int, process: int = 0, num_processes: int = 1) -> RequestLoader:
    """Batches in the order of the requests; each process gets those of its users."""
    return RequestLoader(
        dataset, BatchSampler(len(dataset), batch_requests, None, dataset.share(process, num_processes))
    )


def positions_in_order(num_requests: int, batch_requests: int) -> Iterator[npt.NDArray[np.int64]]:
    """The batches of in_order, as positions."""
    for first in range(0, num_requests, batch_requests):
        yield np.arange(first, min(first + batch_requests, num_requests))


def _as_made(batch: Any) -> Batch:
    return batch


def _place(values: npt.NDArray[Any]) -> npt.NDArray[Any] | dict[str, Any]:
    if not isinstance(values, np.memmap) or not isinstance(
        values.base, mmap
    ):  # a slice of a map starts elsewhere in the file
        return values
    return {"filename": values.filename, "dtype": values.dtype, "offset": values.offset, "shape": values.shape}


def _opened(place: npt.NDArray[Any] | dict[str, Any]) -> npt.NDArray[Any]:
    return np.memmap(**place, mode="r") if isinstance(place, dict) else place  # type: ignore[call-overload]
