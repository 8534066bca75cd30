"""Clicks and factors of users -> the similarity of a user and a candidate's readers. numpy only.

An item's vector is the sum of the factors of the users who clicked it strictly before t - lag (fold-in), so that even
an item an hour old has one. Factors of users are recomputed at the start of each period from the clicks before it
(features/counts/factors.py); a request uses the newest period that starts at or before t - lag. Sums are of integers:
exact, and not changed by later clicks.

Factors of different periods cannot be compared, codes can: models learn weights on the mean code of an item's readers,
each as of the click. Codes include clicks of role history, because their mean does not depend on how many there are.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from contracts.errors import InputError
from features.encoding.asked import Asked
from features.encoding.click_sums import part
from features.encoding.clicks import NO_CLICKS, Clicks, LiveClicks
from features.terms.convention import COCLICK_SPANS, coclick_columns

Int64 = npt.NDArray[np.int64]
Floats = npt.NDArray[np.floating]

SHRINKAGE = 1.0
"""A sum over n readers is divided by n + SHRINKAGE, so that items with few readers weigh less."""
CLICK_ARRAYS = ("items", "times", "users")
CODE_LENGTH = 127.0
"""Of a user's code, as int8."""


@dataclass(frozen=True)
class Coclicks:
    """Clicks in order of (item, time) and the factors of users in each period."""

    items: Int64  # [C] item key of each click, ascending
    times: Int64  # [C] us, ascending within an item
    users: Int64  # [C] user key
    starts: Int64  # [P] us; factors of period p are of clicks before its start
    factors: npt.NDArray[np.int8]  # [P, U, rank] of length about 127; 0 for a user without a click before the period
    codes: npt.NDArray[np.int8]  # [P, U, width] likewise
    history: Clicks = NO_CLICKS  # clicks of role history, which count for codes only
    live: tuple[LiveClicks, ...] = ()
    _logged: Clicks = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_logged", Clicks(self.items, self.times, self.users))

    def with_live(self, live: tuple[LiveClicks, ...]) -> "Coclicks":
        """The same with live clicks added; cached sums are kept."""
        made = object.__new__(Coclicks)
        for name in ("items", "times", "users", "starts", "factors", "codes", "history", "_logged"):
            object.__setattr__(made, name, getattr(self, name))
        object.__setattr__(made, "live", live)
        return made

    def before(self, at_us: int) -> "Coclicks":
        """Only the clicks strictly before a time. All factors are kept."""
        kept, own = self.times < at_us, self.history
        in_history = own.times < at_us
        history = Clicks(own.items[in_history], own.times[in_history], own.users[in_history])
        clicks = self.items[kept], self.times[kept], self.users[kept]
        return Coclicks(*clicks, self.starts, self.factors, self.codes, history)

    def renumbered(self, order: Int64) -> "Coclicks":
        """The same with users renumbered; order: [new number] -> old number."""
        number = np.empty(len(order), np.int64)
        number[order] = np.arange(len(order))
        history = Clicks(self.history.items, self.history.times, number[self.history.users])
        factors, codes = self.factors[:, order], self.codes[:, order]
        return Coclicks(self.items, self.times, number[self.users], self.starts, factors, codes, history)

    @property
    def rank(self) -> int:
        """The length of a factor."""
        return self.factors.shape[2]

    def item_codes(self, items: Int64, upto: Int64) -> npt.NDArray[np.float32]:
        """[*shape, width] codes of items: the shrunken mean code of all who clicked the item strictly before upto.

        Norm up to 1; 0 for an item without clicks, and before the first period. upto: us, of shape or [].
        """
        items, upto = np.broadcast_arrays(items, upto)
        parts = [self._logged, self.history, *(clicks for both in self.live for clicks in both)]
        sums, counts = np.zeros((*items.shape, self.codes.shape[2]), np.int32), np.zeros(items.shape, np.int64)
        for clicks in parts if len(self.starts) else []:
            more = clicks.coded(self.starts, self.codes, items, upto)
            sums, counts = sums + more[0], counts + more[1]
        known = (upto >= self.starts[0]) if len(self.starts) else np.zeros(items.shape, np.bool_)
        weight = known / (CODE_LENGTH * (counts + SHRINKAGE))
        return (sums * weight[..., None]).astype(np.float32)

    def columns(self, items: Int64, request_of: Int64, asked: Asked, lag_us: int) -> dict[str, Floats]:
        """Cosines of B candidates with the user, recent items and page of their requests; 0 where a side is unknown.

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
        """The vectors that candidates are compared with, in the order of coclick_columns: each [R, rank]."""
        users = asked.user_keys[requests]
        known = (users >= 0) & (users < self.factors.shape[1])
        user = np.where(known[:, None], self.factors[period][np.where(known, users, 0)], 0).astype(np.float64)
        recent = self._fold(period, asked.recent[requests], upto[:, None])
        clicks = [recent[:, -span:].sum(axis=1) for span in COCLICK_SPANS]
        return [user, *clicks, self._fold(period, asked.reading[requests], upto)]

    def _fold(self, period: int, items: Int64, upto: Int64) -> Floats:
        """[*shape, rank] vectors of items: the shrunken mean factor of those who clicked the item strictly before."""
        sums, counts = self._logged.before(period, self.factors[period], items, upto)
        for clicks, _ in self.live:
            more = clicks.before(period, self.factors[period], items, upto)
            sums, counts = sums + more[0], counts + more[1]
        return sums / (counts + SHRINKAGE)[..., None]

    @classmethod
    def from_folder(cls, folder: Path, item_ids: Any, user_ids: Any) -> "Coclicks | None":
        """Read data/<source>/coclicks; None if statistics ran without co-clicks (statistics.coclick_rank is 0).

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

        def read(name: str) -> Clicks:
            table = pq.read_table(folder / f"{name}.parquet")
            times = pc.cast(table["occurred_at"], pa.int64()).to_numpy()
            return Clicks.in_order(keys(table, "item_id", item_ids), times, keys(table, "user_id", user_ids))

        shown, factors = read("clicks"), pq.read_table(folder / "factors.parquet")
        starts, period = np.unique(pc.cast(factors["starts_at"], pa.int64()).to_numpy(), return_inverse=True)
        users, dense = keys(factors, "user_id", user_ids), []
        for name in ("factor", "code"):
            length = factors.schema.field(name).type.list_size
            made = np.zeros((len(starts), len(user_ids), length), np.int8)
            made[period, users] = factors[name].combine_chunks().flatten().to_numpy().reshape(-1, length)
            dense.append(made)
        return cls(shown.items, shown.times, shown.users, starts, *dense, history=read("history_clicks"))

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """The arrays from which Coclicks.of rebuilds this object."""
        own = {name: getattr(self, name) for name in ("items", "times", "users", "starts", "factors", "codes")}
        return own | {f"history_{name}": getattr(self.history, name) for name in CLICK_ARRAYS}

    def sums(self) -> dict[str, npt.NDArray[Any]]:
        """All sums that serving reads, computed once."""
        logged, history = self._logged.sums(self.starts, self.codes, self.factors), self.history
        told = {f"of_logged_{name}": array for name, array in logged.items()}
        return told | {f"of_history_{name}": each for name, each in history.sums(self.starts, self.codes, None).items()}

    @classmethod
    def of(cls, arrays: Mapping[str, npt.NDArray[Any]]) -> "Coclicks":
        """Rebuild from the arrays of `arrays` and `sums`."""
        logged, past = ({name: arrays[f"{of}{name}"] for name in CLICK_ARRAYS} for of in ("", "history_"))
        made = object.__new__(cls)
        own: dict[str, Any] = {name: arrays[name] for name in (*CLICK_ARRAYS, "starts", "factors", "codes")}
        own["history"] = Clicks.summed(**past, sums=part(arrays, "of_history_"))
        own["_logged"] = Clicks.summed(**logged, sums=part(arrays, "of_logged_"))
        for name, value in (own | {"live": ()}).items():
            object.__setattr__(made, name, value)
        return made


def _cosines(one: Floats, other: Floats) -> Floats:
    """[B] of [B, rank] and [B, rank]; 0 where one has no length."""
    length = np.sqrt((one * one).sum(axis=-1) * (other * other).sum(axis=-1))
    return np.where(length > 0, (one * other).sum(axis=-1) / np.where(length > 0, length, 1.0), 0.0)
