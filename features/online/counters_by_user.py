"""Counters of users, in files by time -> the same rows by user, so that a range of users is read without the others.

A piece is a folder with the rows of neighbouring partitions of one table:
users.arrow   user_id, start and end of its rows; in order of the ids
rows.arrow    occurred_at (us), shows, clicks and, of pairs, item (position in the vocabulary); by (user, partition)
blocks.npy    of each block of USERS_AT_ONCE users of the log, the first of the piece's users that is in it or later
"""

import tempfile
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from contracts.errors import InputError
from features.encoding.as_of import AsOfCounter
from features.encoding.counters import NOTHING, PAIR_RADIX, Counters
from features.engine.engine import Engine
from features.tables.arrow_file import read_arrow, store_arrow
from features.tables.cache import rename_first
from features.tables.histories import MAPPED_ITEMS, MAPPED_USERS, UserHistories

Int64 = npt.NDArray[np.int64]

OWN, PAIRS = "user_counters", "user_item_counters"
USERS_AT_ONCE = 4096
USERS_OF_UNIT = 16 * USERS_AT_ONCE
"""Users whose places in the pieces are looked up together."""
ROWS_OF_PIECE = 2_000_000
"""Rows of a piece, or those of one partition with more."""
ROWS_AT_ONCE = 500_000
"""Rows in memory of users who are read, or those of one user with more."""
USERS, ROWS, BLOCKS = "users.arrow", "rows.arrow", "blocks.npy"


class Partitions(NamedTuple):
    """A unit: neighbouring files of a table."""

    table: str
    number: int
    files: tuple[Path, ...]

    @property
    def piece(self) -> str:
        """The name of its folder."""
        return f"{self.table}-{self.number:06}"


@dataclass(frozen=True)
class UserCounters:
    """All rows of both tables, by user. Users and items are numbered as in user_histories."""

    folder: Path  # of the pieces, and of the ids that UserHistories.store_ids wrote; every executor sees it
    pieces: tuple[str, ...]  # their folders, those of a table in order of time
    num_rows: Int64  # of each block of USERS_AT_ONCE users
    num_users: int

    @classmethod
    def split(cls, engine: Engine, data: Path, histories: UserHistories, folder: Path) -> "UserCounters":
        """Make a folder of pieces, each a unit.

        Raises InputError where a table has a user or an item that user_histories lacks.
        """
        folder.mkdir()
        histories.store_ids(folder)
        units = [
            Partitions(table, number, files)
            for table in (OWN, PAIRS)
            for number, files in enumerate(_neighbours(sorted((data / table).glob("*.parquet"))))
        ]
        num_users = len(histories.user_ids)
        num_rows = np.zeros(-(-num_users // USERS_AT_ONCE), np.int64)
        for held in engine.map(partial(make_piece, folder), units, "counters by user"):
            num_rows += held
        return cls(folder, tuple(unit.piece for unit in units), num_rows, num_users)

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
        place = _places(names, self.user_ids().slice(first, last - first))
        if place.null_count:
            stray = names.filter(place.is_null())[0].as_py()
            raise InputError(f"The counters name user {stray!r}, whom user_histories lacks. {AGAIN}")
        user = np.split(place.to_numpy().astype(np.int64) + first, np.cumsum([len(each) for each in listed])[:-1])
        places = zip(self.pieces, user, listed, strict=False)  # of no piece np.split makes one
        return UsersRead(first, last, [_Slices.of(self.folder / piece, *each) for piece, *each in places])


AGAIN = "Run histories and statistics again: `dvc repro --force histories statistics`."


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
        num = np.zeros(self.last - self.first, np.int64)
        for each in self.slices:
            num[each.user - self.first] += each.end - each.start
        upto = np.r_[0, np.cumsum(num)]
        while first < last:
            full = int(np.searchsorted(upto, upto[first - self.first] + ROWS_AT_ONCE, side="right")) - 1
            end = min(last, max(full + self.first, first + 1))
            yield first, end
            first = end

    def counters(self, first: int, last: int, before_us: int | None = None) -> Counters:
        """user_counters and user_item_counters of users [first, last) alone, of the rows before a time."""
        own, pairs = (self._table(table, first, last, before_us) for table in (OWN, PAIRS))
        return Counters(NOTHING, own, pairs)

    def _table(self, table: str, first: int, last: int, before_us: int | None) -> AsOfCounter:
        found = [each.rows(first, last, before_us) for each in self.slices if each.piece.name.startswith(f"{table}-")]
        nothing = [np.zeros(0, np.int64)] * 4
        return AsOfCounter.from_rows(*(np.concatenate(each) for each in zip(nothing, *found, strict=True)))


def make_piece(folder: Path, unit: Partitions) -> Int64:
    """Write a piece, at once or not at all; returns how many rows each block of users has in it."""
    with tempfile.TemporaryDirectory(prefix=".piece-", dir=folder, ignore_cleanup_errors=True) as scratch:
        made = Path(scratch, "piece")
        made.mkdir()
        num_rows = _write_piece(folder, unit, made)
        rename_first(made, folder / unit.piece)
    return num_rows


def _write_piece(folder: Path, unit: Partitions, made: Path) -> Int64:
    keys = ["user_id", "item_id"] if unit.table == PAIRS else ["user_id"]
    rows = pa.concat_tables([pq.ParquetFile(path, read_dictionary=keys).read() for path in unit.files])
    names, user = _in_order(rows["user_id"])
    order = np.argsort(user, kind="stable")  # of runs that are in order already, one a partition
    columns = {name: rows[name].cast(pa.int64()).to_numpy()[order] for name in ("occurred_at", "shows", "clicks")}
    if unit.table == PAIRS:
        columns["item"] = _items(folder, rows["item_id"])[order]
    end = np.cumsum(np.bincount(user, minlength=len(names)))
    start = np.r_[0, end[:-1]][: len(end)]
    store_arrow(pa.table(columns), made / ROWS)
    store_arrow(pa.table({"user_id": names, "start": start, "end": end}), made / USERS)
    blocks = _blocks(read_arrow(folder / MAPPED_USERS)["user_id"], names)
    np.save(made / BLOCKS, blocks)
    return np.diff(np.r_[0, end][blocks])


def _in_order(column: pa.ChunkedArray) -> tuple[pa.Array, Int64]:
    """A dictionary-encoded column -> (the ids that it has, in order, each row's position in them)."""
    encoded = column.unify_dictionaries().combine_chunks()
    order = pc.call_function("sort_indices", [encoded.dictionary]).to_numpy()
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order))
    return encoded.dictionary.take(pa.array(order)), rank[encoded.indices.to_numpy()]


def _items(folder: Path, column: pa.ChunkedArray) -> npt.NDArray[np.int32]:
    """Each row's item, as its position in the vocabulary."""
    encoded = column.unify_dictionaries().combine_chunks()
    known = read_arrow(folder / MAPPED_ITEMS)["item_id"]
    place = _places(encoded.dictionary, known)
    if place.null_count:
        stray = encoded.dictionary.filter(place.is_null())[0].as_py()
        raise InputError(f"The counters name item {stray!r}, which the vocabulary lacks. {AGAIN}")
    return place.to_numpy()[encoded.indices.to_numpy()].astype(np.int32)


def _blocks(users: pa.ChunkedArray, names: pa.Array) -> Int64:
    """[num_blocks + 1] the first of the names in each block of users; the first block has those before it too."""
    firsts = [users[first].as_py() for first in range(USERS_AT_ONCE, len(users), USERS_AT_ONCE)]
    inner = [bisect_left(range(len(names)), first, key=lambda place: names[place].as_py()) for first in firsts]
    return np.array([0, *inner, len(names)][: -(-len(users) // USERS_AT_ONCE) + 1], np.int64)


def _places(ids: pa.Array | pa.ChunkedArray, among: pa.ChunkedArray) -> pa.ChunkedArray:
    """Where each id is among others; null where it is not."""
    return pc.call_function("index_in", [ids], pc.SetLookupOptions(value_set=among))


def _listed(piece: Path, first: int, last: int) -> pa.Table:
    """A piece's users in blocks [first, last)."""
    blocks = np.load(piece / BLOCKS, mmap_mode="r")
    return read_arrow(piece / USERS).slice(blocks[first], blocks[last] - blocks[first])


def _neighbours(files: list[Path]) -> Iterator[tuple[Path, ...]]:
    """Files in turn, of at most ROWS_OF_PIECE rows together, or one with more."""
    upto = np.cumsum([0, *(pq.read_metadata(path).num_rows for path in files)])
    starts = [0] if files else []
    for place in range(len(files)):
        if upto[place + 1] - upto[starts[-1]] > ROWS_OF_PIECE and place > starts[-1]:
            starts.append(place)
    yield from (tuple(files[start:end]) for start, end in pairwise([*starts, len(files)]))
