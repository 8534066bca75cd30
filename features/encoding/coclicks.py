"""Who clicked what when, and factors of users -> how alike a candidate's readers and a user are. numpy only.

An item is what its readers are: its vector is the sum of the factors of the users who clicked it strictly before
t - lag (fold-in), so that an item an hour old has one. Factors of users are made anew at the start of each period, of
the clicks before it (features/counts/factors.py); a request reads those of the newest start that is not after
t - lag. Sums are of integers: exact, and what comes later changes none of them.
"""

from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import numpy.typing as npt

from contracts.errors import InputError
from features.encoding.as_of import AsOfCounter
from features.encoding.asked import Asked
from features.terms.convention import COCLICK_SPANS, coclick_columns

Int64 = npt.NDArray[np.int64]
Floats = npt.NDArray[np.floating]

SHRINKAGE = 1.0
"""An item of few readers weighs less in a sum of items: a sum over n readers is divided by n + SHRINKAGE."""
KEPT_SUMS = 2
"""Periods whose running sums are held at once; a log is read in order of time."""


@dataclass(frozen=True)
class Clicks:
    """Who clicked what when, in order of (item, time)."""

    items: Int64  # [C] item key of each click, ascending
    times: Int64  # [C] us, ascending within an item
    users: Int64  # [C] user key
    _counter: AsOfCounter = field(init=False, repr=False)
    _lock: Lock = field(init=False, repr=False, default_factory=Lock)
    _sums: dict[int, npt.NDArray[np.int32]] = field(init=False, repr=False, default_factory=dict)

    def __post_init__(self) -> None:
        first = np.searchsorted(self.items, self.items, side="left")
        upto = np.arange(len(self.items)) - first + 1
        last = np.flatnonzero(np.r_[(np.diff(self.items) != 0) | (np.diff(self.times) != 0), [True] * (len(upto) > 0)])
        counter = AsOfCounter.from_rows(self.items[last], self.times[last], upto[last], upto[last])
        object.__setattr__(self, "_counter", counter)

    def held(self) -> list[npt.NDArray[Any]]:
        """All arrays that it holds in memory."""
        return [self.items, self.times, self.users, *self._counter.arrays(), *self._sums.values()]

    @classmethod
    def in_order(cls, items: Int64, times: Int64, users: Int64) -> "Clicks":
        """Of clicks in any order."""
        order = np.lexsort((users, times, items))
        return cls(items[order], times[order], users[order])

    def before(
        self, period: int, factors: npt.NDArray[np.int8], items: Int64, upto: Int64
    ) -> tuple[npt.NDArray[np.int32], Int64]:
        """(sum of the factors of those who clicked each item strictly before [*shape, rank], how many [*shape]).

        factors: [U, rank] of the period; a user beyond them has none and counts as a reader all the same.
        """
        counts = self._counter.read(items, upto)[0]
        first = np.where(counts > 0, np.searchsorted(self.items, items, side="left"), 0)
        sums = self._running_sums(period, factors)
        return sums[first + counts] - sums[first], counts

    def _running_sums(self, period: int, factors: npt.NDArray[np.int8]) -> npt.NDArray[np.int32]:
        """[C + 1, rank] sums of the factors of all clicks before each; they may wrap, their differences do not."""
        with self._lock:
            if period not in self._sums:
                while len(self._sums) >= KEPT_SUMS:
                    del self._sums[next(iter(self._sums))]
                sums = np.zeros((len(self.users) + 1, factors.shape[1]), np.int32)
                known = self.users < len(factors)
                if known.all():
                    np.cumsum(factors[self.users], axis=0, dtype=np.int32, out=sums[1:])
                else:
                    own = np.where(known[:, None], factors[np.where(known, self.users, 0)], 0)
                    np.cumsum(own, axis=0, dtype=np.int32, out=sums[1:])
                self._sums[period] = sums
            return self._sums[period]


@dataclass(frozen=True)
class Coclicks:
    """Clicks in order of (item, time) and the factors of users in each period."""

    items: Int64  # [C] item key of each click, ascending
    times: Int64  # [C] us, ascending within an item
    users: Int64  # [C] user key
    starts: Int64  # [P] us; factors of period p are of clicks before its start
    factors: npt.NDArray[np.int8]  # [P, U, rank] of length about 127; 0 for a user without a click before the period
    live: tuple[
        Clicks, ...
    ] = ()  # clicks that came since: readers of items at once, factors of users with the next run
    _logged: Clicks = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_logged", Clicks(self.items, self.times, self.users))

    def with_live(self, live: tuple[Clicks, ...]) -> "Coclicks":
        """These and the clicks that came live; what was computed of these is kept."""
        made = object.__new__(Coclicks)
        for name in ("items", "times", "users", "starts", "factors", "_logged"):
            object.__setattr__(made, name, getattr(self, name))
        object.__setattr__(made, "live", live)
        return made

    def before(self, at_us: int) -> "Coclicks":
        """With the clicks strictly before a time alone. All factors stay: those of a period are of clicks before it."""
        kept = self.times < at_us
        return Coclicks(self.items[kept], self.times[kept], self.users[kept], self.starts, self.factors)

    @property
    def rank(self) -> int:
        """The length of a factor."""
        return self.factors.shape[2]

    def columns(self, items: Int64, request_of: Int64, asked: Asked, lag_us: int) -> dict[str, Floats]:
        """Cosines of B candidates with what is known of their requests; 0 where either side is unknown.

        items: [B] item keys. request_of: [B] positions in asked. lag_us: clicks younger than this at the request's
        time are not yet known. Returns coclick_columns(rank, context=True), each [B].
        """
        period_of = np.searchsorted(self.starts, asked.at - lag_us, side="right") - 1  # [R]
        names = coclick_columns(self.rank, context=True)
        made = np.zeros((len(names), len(items)))
        for period in np.unique(period_of[request_of]).tolist():
            if period < 0:
                continue
            rows = np.flatnonzero(period_of[request_of] == period)
            requests, inverse = np.unique(request_of[rows], return_inverse=True)
            upto = asked.at[requests] - lag_us
            own = self._fold(period, items[rows], upto[inverse])
            for number, other in enumerate(self._sides(period, asked, requests, upto)):
                made[number, rows] = _cosines(own, other[inverse])
        return dict(zip(names, made, strict=True))

    def _sides(self, period: int, asked: Asked, requests: Int64, upto: Int64) -> list[Floats]:
        """What a candidate is compared with, in the order of coclick_columns: each [R, rank]."""
        users = asked.user_keys[requests]
        known = (users >= 0) & (users < self.factors.shape[1])
        user = np.where(known[:, None], self.factors[period][np.where(known, users, 0)], 0).astype(np.float64)
        recent = self._fold(period, asked.recent[requests], upto[:, None])
        clicks = [recent[:, -span:].sum(axis=1) for span in COCLICK_SPANS]
        return [user, *clicks, self._fold(period, asked.reading[requests], upto)]

    def _fold(self, period: int, items: Int64, upto: Int64) -> Floats:
        """[*shape, rank] of each item: the shrunken mean of the factors of those who clicked it strictly before."""
        sums, counts = self._logged.before(period, self.factors[period], items, upto)
        for clicks in self.live:
            more = clicks.before(period, self.factors[period], items, upto)
            sums, counts = sums + more[0], counts + more[1]
        return sums / (counts + SHRINKAGE)[..., None]

    @classmethod
    def from_folder(cls, folder: Path, item_ids: Any, user_ids: Any) -> "Coclicks | None":
        """Read data/<source>/coclicks; None where the log was counted without (statistics.coclick_rank is 0).

        item_ids, user_ids: ids whose positions are the keys.
        """
        if not (folder / "factors.parquet").exists():
            return None
        import pyarrow as pa
        import pyarrow.compute as pc
        import pyarrow.parquet as pq

        def keys(table: pa.Table, column: str, known: Any) -> Int64:
            value_set = known if isinstance(known, pa.Array | pa.ChunkedArray) else pa.array(known, pa.string())
            found = pc.call_function("index_in", [table[column]], pc.SetLookupOptions(value_set=value_set))
            if found.null_count:
                raise InputError(f"{folder}: a {column} is not in the vocabulary. Run histories and statistics again.")
            return found.to_numpy().astype(np.int64)

        clicks, factors = (pq.read_table(folder / f"{name}.parquet") for name in ("clicks", "factors"))
        items, users = keys(clicks, "item_id", item_ids), keys(clicks, "user_id", user_ids)
        times = pc.cast(clicks["occurred_at"], pa.int64()).to_numpy()
        order = np.lexsort((users, times, items))
        at = pc.cast(factors["starts_at"], pa.int64()).to_numpy()
        starts, period = np.unique(at, return_inverse=True)
        rank = factors.schema.field("factor").type.list_size
        dense = np.zeros((len(starts), len(user_ids), rank), np.int8)
        flat = factors["factor"].combine_chunks().flatten().to_numpy().reshape(-1, rank)
        dense[period, keys(factors, "user_id", user_ids)] = flat
        return cls(items[order], times[order], users[order], starts, dense)

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """What makes this object again: Coclicks(**arrays)."""
        return {name: getattr(self, name) for name in ("items", "times", "users", "starts", "factors")}


def _cosines(one: Floats, other: Floats) -> Floats:
    """[B] of [B, rank] and [B, rank]; 0 where one has no length."""
    length = np.sqrt((one * one).sum(axis=-1) * (other * other).sum(axis=-1))
    return np.where(length > 0, (one * other).sum(axis=-1) / np.where(length > 0, length, 1.0), 0.0)
