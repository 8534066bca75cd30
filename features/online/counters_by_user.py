"""Counters of users, in files by time -> the same rows by user, so that a range of users is read without the others.

A piece is a folder with the rows of neighbouring partitions of one table:
users.arrow   user_id, start and end of its rows; in order of the ids
rows.arrow    occurred_at (us), shows, clicks and, of pairs, item (position in the vocabulary); by (user, partition)
blocks.npy    of each block of USERS_AT_ONCE users of the log, the first of the piece's users that is in it or later
Pieces are made by counter_pieces.py.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from contracts.errors import InputError
from features.encoding.as_of import AsOfCounter
from features.encoding.counters import NOTHING, PAIR_RADIX, Counters
from features.tables.arrow_file import read_arrow
from features.tables.histories import MAPPED_ITEMS, MAPPED_USERS

Int64 = npt.NDArray[np.int64]

OWN, PAIRS = "user_counters", "user_item_counters"
USERS_AT_ONCE = 4096
USERS_OF_UNIT = 16 * USERS_AT_ONCE
"""Users whose places in the pieces are looked up together."""
ROWS_AT_ONCE = 500_000
"""Rows in memory of users who are read, or those of one user with more."""
USERS, ROWS, BLOCKS = "users.arrow", "rows.arrow", "blocks.npy"
AGAIN = "Run histories and statistics again: `dvc repro --force histories statistics`."


@dataclass(frozen=True)
class UserCounters:
    """All rows of both tables, by user. Users and items are numbered as in user_histories."""

    folder: Path  # of the pieces, and of the ids that UserHistories.store_ids wrote; every executor sees it
    pieces: tuple[str, ...]  # their folders, those of a table in order of time
    num_rows: Int64  # of each block of USERS_AT_ONCE users
    num_users: int

    def user_ids(self) -> pa.ChunkedArray:
        """All users, mapped into memory."""
        return read_arrow(self.folder / MAPPED_USERS)["user_id"]

    def item_ids(self) -> pa.ChunkedArray:
        """All items, mapped into memory."""
        return read_arrow(self.folder / MAPPED_ITEMS)["item_id"]

    def batches(
        self, first: int, last: int, before_us: int | None = None
    ) -> Iterator[Iterator[tuple[tuple[int, int], Counters]]]:
        """Each block of users [first, last) in turn, as ranges of a few users with their counters.

        first begins a block, and last ends one. before_us: only rows strictly before this time (us); None: all.
        """
        assert first % USERS_AT_ONCE == 0, first
        assert last % USERS_AT_ONCE == 0 or last == self.num_users, last
        for start in range(first, last, USERS_OF_UNIT):
            read = self._read(start, min(start + USERS_OF_UNIT, last))
            for block in range(start, read.last, USERS_AT_ONCE):
                few = read.few_at_once(block, min(block + USERS_AT_ONCE, last))
                yield ((users, read.counters(*users, before_us)) for users in few)

    def _read(self, first: int, last: int) -> "UsersRead":
        """Where the rows of the users of some blocks are."""
        blocks = first // USERS_AT_ONCE, -(-last // USERS_AT_ONCE)
        listed = [_listed(self.folder / piece, *blocks) for piece in self.pieces]
        names = pa.chunked_array([chunk for users in listed for chunk in users["user_id"].chunks], pa.string())
        place = places_among(names, self.user_ids().slice(first, last - first))
        if place.null_count:
            stray = names.filter(place.is_null())[0].as_py()
            raise InputError(f"The counters name user {stray!r}, whom user_histories lacks. {AGAIN}")
        user = np.split(place.to_numpy().astype(np.int64) + first, np.cumsum([len(each) for each in listed])[:-1])
        places = zip(self.pieces, user, listed, strict=False)  # of no piece np.split makes one
        return UsersRead(first, last, [_Slices.of(self.folder / piece, *each) for piece, *each in places])


@dataclass(frozen=True)
class _Slices:
    """Where a piece has the rows of some users; each user once, in order."""

    piece: Path
    user: Int64  # user_index
    start: Int64
    end: Int64

    @classmethod
    def of(cls, piece: Path, user: Int64, listed: pa.Table) -> "_Slices":
        return cls(piece, user, listed["start"].to_numpy(), listed["end"].to_numpy())

    def rows(self, first: int, last: int, before_us: int | None) -> list[Int64]:
        """Key, time, shows and clicks of the rows of users [first, last), if they are before a time."""
        here = slice(*np.searchsorted(self.user, [first, last]))
        num = self.end[here] - self.start[here]
        at = np.repeat(self.start[here] - (np.cumsum(num) - num), num) + np.arange(num.sum())
        rows, key = read_arrow(self.piece / ROWS), np.repeat(self.user[here], num)
        if before_us is not None:
            early = rows["occurred_at"].to_numpy()[at] < before_us
            at, key = at[early], key[early]
        if "item" in rows.column_names:
            key = key * PAIR_RADIX + rows["item"].to_numpy()[at]
        return [key, *(rows[name].to_numpy()[at] for name in ("occurred_at", "shows", "clicks"))]


@dataclass(frozen=True)
class UsersRead:
    """Users [first, last), of which `counters` reads some."""

    first: int
    last: int
    slices: list[_Slices]

    def few_at_once(self, first: int, last: int) -> Iterator[tuple[int, int]]:
        """Users [first, last) in ranges of at most ROWS_AT_ONCE rows, or of one user with more."""
        upto = self._upto
        while first < last:
            full = int(np.searchsorted(upto, upto[first - self.first] + ROWS_AT_ONCE, side="right")) - 1
            end = min(last, max(full + self.first, first + 1))
            yield first, end
            first = end

    @cached_property
    def _upto(self) -> Int64:
        """[num_users + 1] rows of the users before each of them."""
        num = np.zeros(self.last - self.first, np.int64)
        for each in self.slices:
            num[each.user - self.first] += each.end - each.start
        return np.r_[0, np.cumsum(num)]

    def counters(self, first: int, last: int, before_us: int | None = None) -> Counters:
        """user_counters and user_item_counters of users [first, last) alone, of the rows before a time."""
        own, pairs = (self._table(table, first, last, before_us) for table in (OWN, PAIRS))
        return Counters(NOTHING, own, pairs)

    def _table(self, table: str, first: int, last: int, before_us: int | None) -> AsOfCounter:
        found = [each.rows(first, last, before_us) for each in self.slices if each.piece.name.startswith(f"{table}-")]
        nothing = [np.zeros(0, np.int64)] * 4
        return AsOfCounter.from_rows(*(np.concatenate(each) for each in zip(nothing, *found, strict=True)))


def places_among(ids: pa.Array | pa.ChunkedArray, among: pa.ChunkedArray) -> pa.ChunkedArray:
    """Where each id is among others; null where it is not."""
    return pc.call_function("index_in", [ids], pc.SetLookupOptions(value_set=among))


def _listed(piece: Path, first: int, last: int) -> pa.Table:
    """A piece's users in blocks [first, last)."""
    blocks = np.load(piece / BLOCKS, mmap_mode="r")
    return read_arrow(piece / USERS).slice(blocks[first], blocks[last] - blocks[first])
