"""user_histories and impressions -> requests with their histories and candidates, split by time.

Everything is an array; histories are memory-mapped.
"""

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc
import pyarrow.parquet as pq

from contracts.errors import InputError
from contracts.schema import FIRST_INDEX, PADDING_INDEX, UNKNOWN_INDEX
from features.encoding.stored_requests import NAMES, ROWS, StoredRequests, ranges, read_rows
from features.terms.convention import micros
from features.terms.params import LabelParams, SplitParams

Ints = npt.NDArray[np.integer]
MICROSECONDS = 1_000_000


@dataclass(frozen=True)
class Events:
    """Every user's events, flat, in time order within a user."""

    item_index: npt.NDArray[np.int32]
    occurred_at: npt.NDArray[np.int64]  # us
    label: npt.NDArray[np.float32]
    session: npt.NDArray[np.int32]
    offsets: npt.NDArray[np.int64]  # user u's events are [offsets[u], offsets[u + 1])


@dataclass(frozen=True)
class Requests:
    """R requests in order of time, with N candidate rows in all."""

    request_index: Ints  # [R]
    user_index: Ints  # [R]
    at: npt.NDArray[np.int64]  # [R] us
    starts: Ints  # [R] the history: events [start, end)
    ends: Ints  # [R]
    row_starts: Ints  # [R + 1] request r's candidates are rows [row_starts[r], row_starts[r + 1])
    item_index: Ints  # [N]
    label: npt.NDArray[np.float32]  # [N]
    known_at: Ints  # [R] us: when the request's last label became known; 0 if the log does not say
    reading: Ints  # [R] item_index of the page that made the request; PADDING_INDEX if none
    is_subscriber: npt.NDArray[np.bool_]  # [R]
    device: npt.NDArray[np.str_]  # [R]; "" where unknown

    def __len__(self) -> int:
        return len(self.at)

    @property
    def num_events(self) -> Ints:
        """[R] events of history."""
        return self.ends - self.starts

    @property
    def num_rows(self) -> int:
        """Number of candidates."""
        return len(self.label)

    @property
    def request_of_row(self) -> Ints:
        """[N] the position of each row's request."""
        return np.repeat(np.arange(len(self)), np.diff(self.row_starts))

    def take(self, chosen: npt.ArrayLike) -> "Requests":
        """The requests at these positions (or where this mask is true), in that order, with their rows."""
        chosen = np.arange(len(self))[np.asarray(chosen)]
        rows, row_starts = rows_of(self.row_starts, chosen)
        return Requests(
            request_index=self.request_index[chosen],
            user_index=self.user_index[chosen],
            at=self.at[chosen],
            starts=self.starts[chosen],
            ends=self.ends[chosen],
            row_starts=row_starts,
            item_index=self.item_index[rows],
            label=self.label[rows],
            known_at=self.known_at[chosen],
            reading=self.reading[chosen],
            is_subscriber=self.is_subscriber[chosen],
            device=self.device[chosen],
        )


@dataclass(frozen=True)
class BareRequests:
    """R requests in order of time without their candidates and contexts: enough to choose some of them."""

    request_index: Ints  # [R]
    user_index: Ints  # [R]
    at: npt.NDArray[np.int64]  # [R] us
    starts: Ints  # [R] as Requests has them
    ends: Ints  # [R]
    known_at: Ints  # [R]
    first_row: Ints  # [R] its candidates are rows [first_row, end_row) of impressions.parquet
    end_row: Ints  # [R]

    def __len__(self) -> int:
        return len(self.at)

    @property
    def num_events(self) -> Ints:
        """[R] events of history."""
        return self.ends - self.starts

    @property
    def num_rows(self) -> int:
        """Number of candidates."""
        return int((self.end_row - self.first_row).sum())

    def take(self, chosen: npt.ArrayLike) -> "BareRequests":
        """As Requests.take."""
        places = np.arange(len(self))[np.asarray(chosen)]
        return BareRequests(**{name: values[places] for name, values in vars(self).items()})


AnyRequests = TypeVar("AnyRequests", Requests, BareRequests)


@dataclass(frozen=True)
class Cuts:
    """Start times of train, validation and test, the log's end, and the delay of labels. All in us."""

    train_at: int
    validation_at: int
    test_at: int
    log_end: int
    delay: int

    def part(self, requests: AnyRequests, name: str) -> AnyRequests:
        """The requests of train, validation or test whose labels were known at the end of that part."""
        return requests.take(self.holds(requests, name))

    def holds(self, requests: Requests | BareRequests, name: str) -> npt.NDArray[np.bool_]:
        """[R] whether a request is in that part and its labels were known at the end of it."""
        within, known = self._place(requests, name)
        return within & known

    def num_label_unknown(self, requests: Requests | BareRequests, *names: str) -> int:
        """Number of requests left out of these parts because a click became, or could become, known after the end.

        The log may say when a click became known (Requests.known_at); otherwise labels.delay_s after the request.
        """
        places = (self._place(requests, name) for name in names)
        return sum(int((within & ~known).sum()) for within, known in places)

    def _place(
        self, requests: Requests | BareRequests, name: str
    ) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
        first, end = {
            "train": (self.train_at, self.validation_at),
            "validation": (self.validation_at, self.test_at),
            "test": (self.test_at, self.log_end),
        }[name]
        # a request at the cut belongs to the later part; a label known at the cut counts as known
        at, known_at = requests.at, np.maximum(requests.at + self.delay, requests.known_at)
        return (at >= first) & (at < end), known_at <= min(end, self.log_end)


def load_events(data: Path) -> Events:
    """Memory-map data/user_histories."""
    folder = data / "user_histories"
    names = ("item_index", "occurred_at", "label", "session", "offsets")
    return Events(**{name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in names})


def load_requests(data: Path, events: Events) -> Requests:
    """Read data/impressions; every request's history ends at its end_offset."""
    return with_candidates(data, load_bare_requests(data, events))


def load_bare_requests(data: Path, events: Events) -> BareRequests:
    """Read of data/impressions what `with_candidates` needs to read some of the requests."""
    stored = StoredRequests.read(data)
    known = pq.read_table(data / NAMES, columns=["known_at"])["known_at"]  # request_index is dense: the row number
    starts = np.asarray(events.offsets)[stored.user_index]
    requests = BareRequests(
        request_index=stored.request_index,
        user_index=stored.user_index,
        at=stored.at,
        starts=starts,
        ends=starts + stored.end_offset,
        known_at=pc.fill_null(known.cast("int64"), 0).to_numpy()[stored.request_index],
        first_row=stored.row_starts[:-1],
        end_row=stored.row_starts[1:],
    )
    order = np.argsort(requests.at, kind="stable")  # by (time, request_index)
    return requests if _ascends(order) else requests.take(order)


def with_candidates(data: Path, bare: BareRequests) -> Requests:
    """Read the candidates and contexts of these requests; of the others' nothing is kept."""
    order = np.argsort(bare.first_row, kind="stable")  # as they are in the file
    stored = bare if _ascends(order) else bare.take(order)
    rows, row_starts = ranges(stored.first_row, stored.end_row)
    candidates = read_rows(data / ROWS, ["item_index", "label"], rows)
    requests = Requests(
        request_index=stored.request_index,
        user_index=stored.user_index,
        at=stored.at,
        starts=stored.starts,
        ends=stored.ends,
        row_starts=row_starts,
        item_index=candidates["item_index"].to_numpy(),
        label=candidates["label"].to_numpy(),
        known_at=stored.known_at,
        **_read_contexts(data, stored.request_index),
    )
    return requests if stored is bare else requests.take(np.argsort(order))


def _ascends(order: Ints) -> bool:
    return bool((order[1:] > order[:-1]).all())


def _read_contexts(data: Path, request_index: Ints) -> dict[str, npt.NDArray[Any]]:
    """Of requests in ascending order."""
    table = read_rows(data / NAMES, ["reading_item_id", "is_subscriber", "device"], request_index)
    read = table["reading_item_id"]
    known = pq.read_table(data / "user_histories" / "vocabulary.parquet", columns=["item_id"])["item_id"]
    place = pc.call_function("index_in", [read], pc.SetLookupOptions(value_set=known, skip_nulls=True))
    place = pc.fill_null(place, UNKNOWN_INDEX - FIRST_INDEX).to_numpy() + FIRST_INDEX
    return {
        "reading": np.where(read.is_null().to_numpy(), PADDING_INDEX, place),
        "is_subscriber": pc.fill_null(table["is_subscriber"], False).to_numpy(zero_copy_only=False),
        "device": pc.fill_null(table["device"], "").to_numpy(zero_copy_only=False).astype(np.str_),
    }


def log_end(requests: Requests | BareRequests, events: Events) -> int:
    """The log's end: 1 us after its newest request or event.

    Events count too, since an event without a request also shows that the log was still being written.
    """
    newest = max(int(requests.at.max(initial=0)), int(events.occurred_at.max(initial=0)))
    return newest + 1


def cut_times(split: SplitParams, labels: LabelParams, at: npt.NDArray[np.int64], end: int) -> Cuts:
    """The cuts that `split` gives as quantiles of request times or ISO times. at: ascending. end: of log_end.

    Raises InputError if train would begin after validation, or validation after test.
    """
    cuts = Cuts(
        train_at=int(at[0]) if split.train_from is None else _cut_time(split.train_from, at),
        validation_at=_cut_time(split.validation, at),
        test_at=_cut_time(split.test, at),
        log_end=end,
        delay=micros(labels.delay_s),
    )
    if split.train_from is not None and cuts.train_at > cuts.validation_at:
        raise InputError(
            f"split.train_from is {iso(cuts.train_at)} and split.validation {iso(cuts.validation_at)}: the train part "
            "would be empty. Set split.train_from to an earlier time, or to null."
        )
    if cuts.validation_at > cuts.test_at:
        raise InputError(
            f"split.validation is {iso(cuts.validation_at)} and split.test {iso(cuts.test_at)}: validation would begin "
            "after test. Set split.validation to an earlier time."
        )
    return cuts


def iso(at_us: int) -> str:
    """Microseconds -> ISO time in UTC."""
    return datetime.fromtimestamp(at_us / MICROSECONDS, UTC).isoformat()


def rows_of(row_starts: Ints, chosen: Ints) -> tuple[Ints, Ints]:
    """Positions of all rows of the chosen requests, in order, and the start of each request's rows among them."""
    return ranges(row_starts[chosen], row_starts[chosen + 1])


def _cut_time(cut: float | datetime, at: npt.NDArray[np.int64]) -> int:
    if isinstance(cut, datetime):
        moment = cut if cut.tzinfo else cut.replace(tzinfo=UTC)
        return round(moment.timestamp() * MICROSECONDS)
    position = int(cut * len(at))
    return int(at[position]) if position < len(at) else int(at[-1]) + 1
