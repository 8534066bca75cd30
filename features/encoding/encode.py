"""A user's events and a time -> the tensors that a model reads, the only implementation of it. numpy only.

Training calls it for many requests over flat arrays, serving for one user; both run the same code.
"""

import hashlib
import json
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from contracts.errors import InputError
from contracts.schema import PADDING_INDEX
from features.terms.convention import CLICKED, RECENT, coclick_columns, code_width, micros
from features.terms.slices import ends_before

if TYPE_CHECKING:
    from features.terms.params import HistoryParams, StatisticsParams

Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]
Bool = npt.NDArray[np.bool_]
Float32 = npt.NDArray[np.float32]

VERSION = 6
"""Increased whenever the meaning of a tensor changes, so that older bundles are refused."""
NUM_AGE_BUCKETS = 26
"""floor(log2(1 + age / 30 s)) up to 31 years."""
AGE_UNIT_US = 30_000_000
PADDING_SESSION = -1


@dataclass(frozen=True)
class FeatureSpec:
    """Everything that decides how histories and candidates are encoded. A bundle carries it and its hash."""

    history_length: int  # L
    labels: str  # history.labels: which events a history holds
    history_lag_s: float
    session_gap_s: float
    session_max_s: float | None
    windows_s: tuple[int, ...]
    shows_lag_s: float
    clicks_lag_s: float
    user_lag_s: float
    context: bool  # the request's context and the hour are features
    devices: tuple[str, ...]  # device names that are told apart
    coclick_rank: int  # 0: no co-click features
    coclick_period_s: float
    in_list: bool  # candidates are also compared with the others of their list

    @classmethod
    def of(cls, history: "HistoryParams", statistics: "StatisticsParams", history_length: int) -> "FeatureSpec":
        """What the params say of the features. history_length: L."""
        shared = statistics.model_dump(exclude={"bucket_s"})
        return cls(
            history_length=history_length,
            labels=history.labels,
            history_lag_s=history.lag_s,
            session_gap_s=history.session_gap_s,
            session_max_s=history.session_max_s,
            **shared,
        )

    @property
    def num_rank_buckets(self) -> int:
        """Ranks 1..L fall into buckets 0..floor(log2 L)."""
        return int(self.history_length).bit_length()

    @property
    def num_age_buckets(self) -> int:
        return NUM_AGE_BUCKETS

    @property
    def num_labels(self) -> int:
        """0 shown and not clicked, 1 clicked."""
        return 2

    @property
    def code_width(self) -> int:
        """F, width of co-click codes (item_codes.py); 0 without co-clicks."""
        return code_width(self.coclick_rank)

    @property
    def num_events_read(self) -> int:
        """Number of newest known events that models and scalars read; an online store holds at least these."""
        return max(self.history_length, RECENT if self.coclick_rank else 0)

    @property
    def scopes(self) -> tuple[str, ...]:
        """The ranges that counts are taken over: all time, then each trailing window."""
        return ("total", *(f"{window}s" for window in self.windows_s))

    @property
    def candidate_scalars(self) -> tuple[str, ...]:
        """The columns of features/encoding/scalars.py that differ from candidate to candidate of one request."""
        of_item = [f"item_{what}_{scope}" for scope in self.scopes for what in ("shows", "clicks", "rate")]
        ages = ("item_age", "item_seen_age", "item_click_age")
        of_pair = [f"user_item_{what}" for what in ("shows", "clicks", "seen_age")]
        reading = ("item_is_read",) if self.context else ()
        alike = coclick_columns(self.coclick_rank, self.context)
        return (*of_item, *ages, "item_click_trend", "item_rate_trend", *of_pair, *reading, *alike)

    @property
    def request_scalars(self) -> tuple[str, ...]:
        """The columns that are the same for all candidates of a request."""
        of_user = [f"user_{what}_{scope}" for scope in self.scopes for what in ("shows", "clicks")]
        own = (*of_user, "user_rate", "user_age", "user_session_shows")
        if not self.context:
            return own
        devices = (f"device_{name}" for name in self.devices)
        return (*own, "hour_sin", "hour_cos", "on_item_page", "is_subscriber", *devices)

    @property
    def scalars(self) -> tuple[str, ...]:
        """All columns of scalar_features, in order."""
        own = (*self.candidate_scalars, *self.request_scalars)
        if not self.in_list:
            return own
        compared = [f"{name}_{how}" for how in ("rank", "difference") for name in self.candidate_scalars]
        return (*own, *compared, "list_length")

    def to_json(self) -> dict[str, Any]:
        """A plain object; from_json reads it back."""
        derived = {name: getattr(self, name) for name in ("num_rank_buckets", "num_age_buckets", "num_labels")}
        plain = asdict(self) | derived | {"scalars": self.scalars, "version": VERSION}
        return json.loads(json.dumps(plain))

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> "FeatureSpec":
        """Raises InputError if this code encodes differently from the code that wrote the spec."""
        missing = [field.name for field in fields(cls) if field.name not in value]
        if missing:
            raise InputError(f"The feature spec lacks {', '.join(missing)}. Package the model again.")
        own: dict[str, Any] = {field.name: value[field.name] for field in fields(cls)}
        own |= {name: tuple(own[name]) for name in ("windows_s", "devices")}
        spec = cls(**own)
        if spec.to_json() != value:
            changed = sorted(
                key for key in spec.to_json().keys() | value.keys() if spec.to_json().get(key) != value.get(key)
            )
            raise InputError(
                f"The feature spec was written by another version of encode.py: {', '.join(changed)} differ. "
                "Train and package again, or serve with the code that packaged it."
            )
        return spec

    def hash(self) -> str:
        """sha256 of the canonical JSON."""
        return hashlib.sha256(json.dumps(self.to_json(), sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class EncodedHistory:
    """U histories, right-aligned in L slots: slot L - 1 is the newest event before the cut, padding is on the left."""

    item_index: Int32  # [U, L]; 0 where padded
    label: Int32  # [U, L]; 1 clicked
    rank_bucket: Int32  # [U, L]; floor(log2(rank)), the newest event has rank 1
    age_bucket: Int32  # [U, L]; floor(log2(1 + (at - event) / 30 s))
    session: Int32  # [U, L]; 0 is the session of the newest event, 1 the one before; -1 where padded
    mask: Bool  # [U, L]; True where there is an event
    length: Int32  # [U]
    last_age_bucket: Int32  # [U]; of the newest event; the last bucket where there is none
    session_open: Bool  # [U]; the newest event is at most session_gap_s old: its session may go on


def encode_histories(
    spec: FeatureSpec,
    item_index: npt.NDArray[Any],
    occurred_at: npt.NDArray[Any],
    label: npt.NDArray[Any],
    session: npt.NDArray[Any],
    starts: npt.ArrayLike,
    ends: npt.ArrayLike,
    at: npt.ArrayLike,
) -> EncodedHistory:
    """Encode the newest L of events [start, end) of each of U histories, as known at time `at`.

    item_index, occurred_at (us), label, session: flat events, in time order within each history; may be memory maps.
    starts, ends: [U] absolute positions. at: [U] request times in us. An event that is not strictly before
    at - history_lag_s is never encoded, whatever ends says.
    """
    starts, at = np.asarray(starts, np.int64), np.asarray(at, np.int64)
    cut = at - micros(spec.history_lag_s)
    ends = ends_before(occurred_at, starts, np.asarray(ends, np.int64), cut)
    length = spec.history_length
    mask = np.arange(-length, 0) >= (starts - ends)[:, None]  # [U, L]
    times, sessions = newest(occurred_at, ends, length), newest(session, ends, length).astype(np.int64)
    age = np.where(mask, age_bucket(at[:, None] - times), 0).astype(np.int32)
    ranks = np.arange(length, 0, -1)
    known = mask[:, -1]
    return EncodedHistory(
        item_index=np.where(mask, newest(item_index, ends, length), PADDING_INDEX).astype(np.int32),
        label=(mask & (newest(label, ends, length) >= CLICKED)).astype(np.int32),
        rank_bucket=np.where(mask, _floor_log2(ranks), 0).astype(np.int32),
        age_bucket=age,
        session=np.where(mask, sessions[:, -1:] - sessions, PADDING_SESSION).astype(np.int32),
        mask=mask,
        length=mask.sum(axis=1).astype(np.int32),
        last_age_bucket=np.where(known, age[:, -1], NUM_AGE_BUCKETS - 1).astype(np.int32),
        session_open=known & (at - times[:, -1] <= micros(spec.session_gap_s)),
    )


def newest(values: npt.NDArray[Any], ends: Int64, length: int) -> npt.NDArray[Any]:
    """[U, length] the `length` values before each end, even those of other users (the caller masks them).

    values: flat; may be a memory map. Positions before its start read the first value, or 0 if it is empty.
    """
    values = np.asarray(values) if len(values) else np.zeros(1, values.dtype)
    firsts = ends - length
    if len(ends) == 1 and firsts[0] >= 0:
        return values[None, firsts[0] : ends[0]]
    if len(values) < length:
        return values[np.minimum(np.maximum(firsts[:, None] + np.arange(length), 0), len(values) - 1)]
    made = np.lib.stride_tricks.sliding_window_view(values, length)[np.maximum(firsts, 0)]
    early = np.flatnonzero(firsts < 0)
    if len(early):
        made[early] = values[np.maximum(firsts[early, None] + np.arange(length), 0)]
    return made


def encode_one(
    spec: FeatureSpec,
    item_index: npt.NDArray[Any],
    occurred_at: npt.NDArray[Any],
    label: npt.NDArray[Any],
    session: npt.NDArray[Any],
    at: int,
) -> EncodedHistory:
    """One user's whole stored history, in time order, as known at `at`: encode_histories with U = 1."""
    end = np.searchsorted(occurred_at, at - micros(spec.history_lag_s), side="left")
    return encode_histories(spec, item_index, occurred_at, label, session, [0], [end], [at])


def age_bucket(age_us: npt.ArrayLike) -> Int32:
    """floor(log2(1 + age / 30 s)), exact in integers; ages beyond the last bucket stay in it."""
    units = np.maximum(np.asarray(age_us, np.int64), 0) // AGE_UNIT_US
    return np.minimum(_floor_log2(1 + units), NUM_AGE_BUCKETS - 1)


def _floor_log2(positive: npt.NDArray[Any]) -> Int32:
    return np.frexp(positive.astype(np.float64))[1].astype(np.int32) - 1  # exact below 2**53
