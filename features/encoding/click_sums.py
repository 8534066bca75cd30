"""Clicks in order of (item, time), factors of users by period -> precomputed sums for lookup. numpy only.

A request at time t reads the sum of its period's factors over an item's clicks before t: one stored sum per item for
clicks before the period's start, plus a running sum over the clicks within the period.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt

Int64 = npt.NDArray[np.int64]
Int32 = npt.NDArray[np.int32]


@dataclass(frozen=True)
class PeriodSums:
    """Precomputed sums of factors for P periods and C clicks on K items."""

    firsts: Int64  # [K] where each item's clicks begin
    base: Int32  # [P, K, rank] of an item's clicks before each period's start
    bounds: Int64  # [P + 1] in rows, where each period's clicks begin
    rows: Int64  # [C'] of each period the positions of its clicks, ascending
    sums: Int32  # [C' + P, rank] running sums over them, of each period from 0

    @classmethod
    def of(cls, items: Int64, times: Int64, users: Int64, starts: Int64, factors: npt.NDArray[np.int8]) -> "PeriodSums":
        """factors: [P, U, rank]; a user beyond them has none."""
        firsts = np.flatnonzero(np.diff(items, prepend=-1))
        num_periods, rank = len(starts), factors.shape[2]
        base = np.zeros((num_periods, len(firsts), rank), np.int32)
        rows, sums = [], []
        for period, start in enumerate(starts.tolist()):
            end = starts[period + 1] if period + 1 < num_periods else np.iinfo(np.int64).max
            here = np.flatnonzero((times >= start) & (times < end))
            rows.append(here)
            sums.append(np.zeros((len(here) + 1, rank), np.int32))
            np.cumsum(_own(factors[period], users[here]), axis=0, dtype=np.int32, out=sums[-1][1:])
            if len(firsts):
                before = np.where((times < start)[:, None], _own(factors[period], users), 0)
                base[period] = np.add.reduceat(before, firsts, axis=0, dtype=np.int32)
        bounds = np.cumsum([0, *(len(each) for each in rows)])
        none = np.zeros(0, np.int64), np.zeros((0, rank), np.int32)
        return cls(firsts, base, bounds, np.concatenate([none[0], *rows]), np.concatenate([none[1], *sums]))

    def before(self, period: int, first: Int64, counts: Int64) -> Int32:
        """[*shape, rank] sum over the first `counts` clicks of an item, all before a time within the period.

        first: where the item's clicks begin.
        """
        begin, end = int(self.bounds[period]), int(self.bounds[period + 1])
        rows, sums = self.rows[begin:end], self.sums[begin + period : end + period + 1]
        known = counts > 0
        if not known.any():
            return np.zeros((*counts.shape, self.base.shape[2]), np.int32)
        item = np.where(known, np.searchsorted(self.firsts, first, side="right") - 1, 0)
        within = sums[np.searchsorted(rows, first + counts)] - sums[np.searchsorted(rows, first)]
        return np.where(known[..., None], self.base[period, item] + within, 0).astype(np.int32, copy=False)

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """The arrays from which this object can be rebuilt."""
        return {each.name: getattr(self, each.name) for each in fields(self)}


def coded_sums(times: Int64, users: Int64, starts: Int64, codes: npt.NDArray[np.int8]) -> Int32:
    """[C + 1, width] running sums of codes [P, U, width]; each click adds its user's code in the click's period.

    Clicks before the first period use the first period's codes.
    """
    sums = np.zeros((len(users) + 1, codes.shape[2]), np.int32)
    if not len(starts):
        return sums
    period = np.maximum(np.searchsorted(starts, times, side="right") - 1, 0)
    known = users < codes.shape[1]
    own = np.where(known[:, None], codes[period, np.where(known, users, 0)], 0)
    np.cumsum(own, axis=0, dtype=np.int32, out=sums[1:])
    return sums


def part(arrays: Mapping[str, npt.NDArray[Any]], prefix: str) -> dict[str, npt.NDArray[Any]]:
    """The arrays whose names start with the prefix, which is removed."""
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}


def _own(factors: npt.NDArray[np.int8], users: Int64) -> npt.NDArray[np.int8]:
    known = users < len(factors)
    return factors[users] if known.all() else np.where(known[:, None], factors[np.where(known, users, 0)], 0)
