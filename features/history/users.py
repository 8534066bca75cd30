"""Pieces of the log -> the rows of whole users, in order of (user, time, item, event_key), a range of users at a time.

Pieces are disjoint in time, so a user's rows are the concatenation of its rows in each piece: positions follow from
counts, and nothing is sorted again.
"""
# pyright: reportAttributeAccessIssue=false, reportOperatorIssue=false

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import ibis.expr.types as ir
import numpy as np
import numpy.typing as npt
import pyarrow as pa
from ibis.backends.duckdb import Backend

from contracts.errors import InputError
from features.history.pieces import HistoryPiece
from features.tables import duck
from features.tables.arrow_file import read_arrow

Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]


@dataclass(frozen=True)
class UserRows:
    """N rows of the users `first` to `last`, by (user, time, item, event_key)."""

    first: int
    last: int
    user_index: Int32
    item_index: Int32
    occurred_at: Int64
    row_at: Int64  # from when on the row counts, and its click: features/terms/known.py
    click_at: Int64
    label: npt.NDArray[np.float32]
    kind: Int32  # features.history.queries
    position: Int32  # NO_POSITION where the log has none
    event_key: Int64
    session_key: Int64


@dataclass(frozen=True)
class NamedRequests:
    """Requests with a name, of a range of users, each as one piece has it: by (piece, user, place)."""

    user_index: Int32
    piece: Int32
    place: Int32  # row of the piece's requests
    request_at: Int64
    name_key: Int64


NUM_ROWS = "num_rows.npy"
STORED = {"occurred_at": np.int64, "label": np.float32, "kind": np.int32, "position": np.int32}
STORED |= {"event_key": np.int64, "session_key": np.int64, "row_at": np.int64, "click_at": np.int64}


@dataclass(frozen=True)
class UserLog:
    """All pieces, and the users of their rows."""

    pieces: Sequence[HistoryPiece]
    scratch: Path  # users.arrow: user_index and num_rows; items.arrow: item_index; of each piece in turn
    starts: Int64  # [num_ranges + 1] the first user of each range; at last the number of users

    @classmethod
    def open(
        cls, connection: Backend, pieces: Sequence[HistoryPiece], num_rows: Int64, at_once: int, scratch: Path
    ) -> "UserLog":
        """Number the pieces' users and items by the tables `users` and `vocabulary` of the connection.

        num_rows: [num_users]. at_once: rows per range; a user with more rows is a range alone.
        Raises InputError if a user or an item of the log is unknown.
        """
        users = of_pieces(connection, pieces, "users").inner_join(duck.kept(connection, "users"), "user_id")
        items = of_pieces(connection, pieces, "items").inner_join(duck.kept(connection, "vocabulary"), "item_id")
        wanted = {
            "users": users.order_by(["partition", "user_code"]).select("user_index", "num_rows"),
            "items": items.order_by(["partition", "item_code"]).select("item_index"),
        }
        for table, numbered in wanted.items():
            missing = sum(piece.num_rows[table] for piece in pieces)
            missing -= duck.write_arrow(connection, numbered, scratch / f"{table}.arrow")
            if missing:
                raise InputError(
                    f"{missing:,} {table} of the partitions of validated_interactions are unknown: items.parquet is "
                    "of another log. Rebuild both with `dvc repro --force ingest validate`."
                )
        np.save(scratch / NUM_ROWS, num_rows)
        users = cls(pieces, scratch, _range_starts(num_rows, at_once))
        # found once, here: they travel to the executors with it
        assert users._row_bounds.shape == users._request_bounds.shape == (len(pieces), len(users.starts))
        return users

    @property
    def num_rows(self) -> Int64:
        """[num_users] rows of each user, mapped into memory."""
        return np.load(self.scratch / NUM_ROWS, mmap_mode="r")

    def range_folder(self, number: int) -> Path:
        """Where what is made of the range `number` waits."""
        return self.scratch / f"range-{number:06}"

    def rows(self, number: int) -> UserRows:
        """Whole users: the range `number`."""
        first, last = (int(bound) for bound in self.starts[number : number + 2])
        totals = self.num_rows[first:last]
        ends = np.cumsum(totals)
        made: dict[str, npt.NDArray[Any]] = {name: np.empty(ends[-1], kind) for name, kind in STORED.items()}
        made["item_index"] = np.empty(ends[-1], np.int32)
        filled = ends - totals  # of each user: where its next row goes
        for place, piece in enumerate(self.pieces):
            members = self.members(place)[slice(*self._member_bounds[place, number : number + 2])]
            if not len(members):
                continue
            user, count = members["user_index"].to_numpy() - first, members["num_rows"].to_numpy()
            start, end = self._row_bounds[place, number : number + 2]
            to = np.repeat(filled[user] - (np.cumsum(count) - count), count) + np.arange(end - start)
            filled[user] += count
            held = piece.table("rows").slice(start, end - start)
            for name in STORED:
                made[name][to] = held[name].to_numpy()
            made["item_index"][to] = self.item_index(place)[held["item_code"].to_numpy()]
        user_index = np.repeat(np.arange(first, last, dtype=np.int32), totals)
        return UserRows(first, last - 1, user_index, **made)

    def requests(self, number: int) -> NamedRequests:
        """The named requests of the range `number`."""
        found = []
        for place, piece in enumerate(self.pieces):
            start, end = self._request_bounds[place, number : number + 2]
            if start == end:
                continue
            held = piece.table("by_user").slice(start, end - start)
            members = self.members(place)["user_index"].to_numpy()
            user = members[held["user_code"].to_numpy()]
            of = np.full(end - start, place, np.int32)
            found.append((user, of, *(held[name].to_numpy() for name in ("place", "request_at", "name_key"))))
        kinds = (np.int32, np.int32, np.int32, np.int64, np.int64)
        empty = [np.zeros(0, kind) for kind in kinds]
        return NamedRequests(*(np.concatenate(each) for each in zip(empty, *found, strict=True)))

    def request_slice(self, number: int, place: int) -> slice:
        """A piece's requests among requests(number)."""
        bounds = self._request_bounds[: place + 1, number : number + 2]
        inner = _offsets(bounds[:, 1] - bounds[:, 0])
        return slice(*inner[place : place + 2])

    def members(self, place: int) -> pa.Table:
        """user_index and num_rows of a piece's users."""
        return self._of_piece("users", place)

    def item_index(self, place: int) -> Int32:
        """[a piece's items] item_index by item_code."""
        return self._of_piece("items", place)["item_index"].to_numpy()

    def _of_piece(self, table: str, place: int) -> pa.Table:
        offsets = self._id_offsets[table]
        return read_arrow(self.scratch / f"{table}.arrow").slice(offsets[place], offsets[place + 1] - offsets[place])

    @cached_property
    def _id_offsets(self) -> dict[str, Int64]:
        return {table: _offsets([piece.num_rows[table] for piece in self.pieces]) for table in ("users", "items")}

    @cached_property
    def _member_bounds(self) -> Int64:
        """[num_pieces, num_ranges + 1] each piece's first user at or after the start of each range."""
        found = [
            np.searchsorted(self.members(p)["user_index"].to_numpy(), self.starts) for p in range(len(self.pieces))
        ]
        return np.array(found, np.int64).reshape(len(self.pieces), len(self.starts))

    @cached_property
    def _row_bounds(self) -> Int64:
        """The same for rows."""
        found = [
            _offsets(self.members(place)["num_rows"].to_numpy())[bounds]
            for place, bounds in enumerate(self._member_bounds)
        ]
        return np.array(found, np.int64).reshape(self._member_bounds.shape)

    @cached_property
    def _request_bounds(self) -> Int64:
        """The same for named requests by user."""
        found = [
            np.searchsorted(piece.table("by_user")["user_code"].to_numpy(), bounds)
            for piece, bounds in zip(self.pieces, self._member_bounds, strict=True)
        ]
        return np.array(found, np.int64).reshape(self._member_bounds.shape)


def of_pieces(connection: Backend, pieces: Sequence[HistoryPiece], table: str) -> ir.Table:
    """users or items of all pieces."""
    return connection.read_parquet([str(piece.files[table]) for piece in pieces])


def _range_starts(num_rows: Int64, at_once: int) -> Int64:
    """The first user of each range of about at_once rows, and the number of users."""
    number = (np.cumsum(num_rows) - 1) // at_once
    return np.flatnonzero(np.r_[True, number[1:] != number[:-1], True])


def _offsets(counts: npt.ArrayLike) -> Int64:
    return np.r_[0, np.cumsum(np.asarray(counts, np.int64))].astype(np.int64)
