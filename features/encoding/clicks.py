"""Clicks (user, item, time) -> an item's number of readers before a time, and the sum of their factors. numpy only."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from threading import Lock
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from features.encoding.as_of import AsOfCounter
from features.encoding.click_sums import PeriodSums, coded_sums, part

Int64 = npt.NDArray[np.int64]

KEPT_SUMS = 2
"""Number of periods whose running sums are cached; a log is read in order of time."""


@dataclass(frozen=True)
class Clicks:
    """Clicks in order of (item, time)."""

    items: Int64  # [C] item key of each click, ascending
    times: Int64  # [C] us, ascending within an item
    users: Int64  # [C] user key
    _counter: AsOfCounter = field(init=False, repr=False)
    _lock: Lock = field(init=False, repr=False, default_factory=Lock)
    _sums: dict[int, npt.NDArray[np.int32]] = field(init=False, repr=False, default_factory=dict)
    _coded: list[npt.NDArray[np.int32]] = field(init=False, repr=False, default_factory=list)  # none until asked
    _summed: list[PeriodSums] = field(init=False, repr=False, default_factory=list)  # of a log that is served

    def __post_init__(self) -> None:
        first = np.searchsorted(self.items, self.items, side="left")
        upto = np.arange(len(self.items)) - first + 1
        last = np.flatnonzero(np.r_[(np.diff(self.items) != 0) | (np.diff(self.times) != 0), [True] * (len(upto) > 0)])
        counter = AsOfCounter.from_rows(self.items[last], self.times[last], upto[last], upto[last])
        object.__setattr__(self, "_counter", counter)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickles the clicks without the cached sums."""
        return Clicks, (self.items, self.times, self.users)

    def held(self) -> list[npt.NDArray[Any]]:
        """All arrays that it keeps in memory."""
        return [self.items, self.times, self.users, *self._counter.arrays(), *self._sums.values(), *self._coded]

    @classmethod
    def in_order(cls, items: Int64, times: Int64, users: Int64) -> "Clicks":
        """From clicks in any order."""
        order = np.lexsort((users, times, items))
        return cls(items[order], times[order], users[order])

    @classmethod
    def summed(cls, items: Int64, times: Int64, users: Int64, sums: Mapping[str, npt.NDArray[Any]]) -> "Clicks":
        """Clicks with precomputed `sums`."""
        made = object.__new__(cls)
        counter = AsOfCounter(**part(sums, "counter_"), clicks=sums["counter_shows"])
        summed = [PeriodSums(**part(sums, "sums_"))] if "sums_rows" in sums else []
        told = {"items": items, "times": times, "users": users, "_counter": counter, "_lock": Lock(), "_sums": {}}
        for name, value in (told | {"_coded": [sums["coded"]], "_summed": summed}).items():
            object.__setattr__(made, name, value)
        return made

    def sums(
        self, starts: Int64, codes: npt.NDArray[np.int8], factors: npt.NDArray[np.int8] | None
    ) -> dict[str, npt.NDArray[Any]]:
        """The sums for all reads from the first period on. factors: [P, U, rank]; None: factors are not read."""
        counter = {f"counter_{name}": getattr(self._counter, name) for name in ("keys", "times", "packed", "shows")}
        made = counter | {"coded": coded_sums(self.times, self.users, starts, codes)}
        if factors is not None:
            summed = PeriodSums.of(self.items, self.times, self.users, starts, factors)
            made |= {f"sums_{name}": array for name, array in summed.arrays().items()}
        return made

    def before(
        self, period: int, factors: npt.NDArray[np.int8], items: Int64, upto: Int64
    ) -> tuple[npt.NDArray[np.int32], Int64]:
        """(sum of the factors of those who clicked each item strictly before [*shape, rank], how many [*shape]).

        factors: [U, rank] of the period; a user without a row counts as a reader, with a zero factor.
        """
        first, counts = self._readers(items, upto)
        if self._summed:
            return self._summed[0].before(period, first, counts), counts
        sums = self._running_sums(period, factors)
        return sums[first + counts] - sums[first], counts

    def coded(
        self, starts: Int64, codes: npt.NDArray[np.int8], items: Int64, upto: Int64
    ) -> tuple[npt.NDArray[np.int32], Int64]:
        """Like `before`, for codes [P, U, width]: each click uses the code of its own period.

        Clicks before the first period use that period's codes; no read is before it (Coclicks.item_codes).
        """
        first, counts = self._readers(items, upto)
        with self._lock:
            if not self._coded:
                self._coded.append(coded_sums(self.times, self.users, starts, codes))
        sums = self._coded[0]
        return sums[first + counts] - sums[first], counts

    def _readers(self, items: Int64, upto: Int64) -> tuple[Int64, Int64]:
        """(where the clicks on each item begin, how many were strictly before)."""
        counts = self._counter.read(items, upto)[0]
        return np.where(counts > 0, np.searchsorted(self.items, items, side="left"), 0), counts

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


NO_CLICKS = Clicks(*np.zeros((3, 0), np.int64))


class LiveClicks(NamedTuple):
    """Live clicks: they count as readers of items at once; users' factors and codes change with the next run."""

    shown: Clicks
    history: Clicks  # of role history
