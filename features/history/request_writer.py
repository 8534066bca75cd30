"""Named requests of all pieces and the blocks of all ranges -> impressions/, numbered by (time, user, name).

Reads the log in order of time, in spans of about SPAN_ROWS rows of one piece, so nothing is sorted as a whole.
"""
# pyright: reportAttributeAccessIssue=false, reportOperatorIssue=false

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import ibis
import ibis.expr.types as ir
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from ibis.backends.duckdb import Backend

from contracts import schema
from features.history.pieces import HistoryPiece
from features.history.request_rows import NOT_LATER, Blocks, Moved, read_end_offsets
from features.history.users import UserLog
from features.tables.row_groups import row_groups
from features.terms.slices import positions

Int64 = npt.NDArray[np.int64]

SPAN_ROWS = 1_000_000


@dataclass(frozen=True)
class RequestTable:
    """R requests and their rows, in the order of the requests."""

    request_at: Int64  # [R]
    user_index: npt.NDArray[np.int32]  # [R]
    name: pa.ChunkedArray  # [R]
    end_offset: npt.NDArray[np.int32]  # [R]
    num_rows: npt.NDArray[np.int32]  # [R]
    known_at: Int64  # [R] us; NOT_LATER if everything was known at its own time
    item_index: npt.NDArray[np.int32]  # [N]
    label: npt.NDArray[np.float32]  # [N]


def write_requests(
    connection: Backend,
    users: UserLog,
    user_ids: pa.ChunkedArray,
    moved: Moved,
    contexts: ir.Table,
    folder: Path,
) -> int:
    """Write requests.parquet and impressions.parquet; returns how many requests there are."""
    blocks = [Blocks.read(users.range_folder(number)) for number in range(len(users.starts) - 1)]
    num_requests = 0
    with (
        row_groups(folder / "impressions.parquet", schema.IMPRESSIONS) as append_rows,
        _with_contexts(connection, contexts, folder / "requests.parquet") as append_names,
    ):
        for place, piece in enumerate(users.pieces):
            named = _Named.of(users, place, moved)
            for first_us, end_us in _spans(piece):
                made = list(_blocks_between(blocks, user_ids, first_us, end_us))
                requests = named.between(first_us, end_us)
                requests = _in_order([requests, *made]) if made else requests
                append_names(num_requests, requests)
                append_rows(_impressions(num_requests, requests))
                num_requests += len(requests.request_at)
    return num_requests


def _spans(piece: HistoryPiece) -> Iterator[tuple[int, int]]:
    """Time ranges [first, end) of about SPAN_ROWS rows each, by the row groups of the piece's file."""
    metadata = pq.read_metadata(piece.log_file)
    place = metadata.schema.names.index("occurred_at")
    groups = [metadata.row_group(group) for group in range(metadata.num_row_groups)]
    first_us = [_us(group.column(place).statistics.min) for group in groups if group.num_rows]
    before = np.cumsum([0, *(group.num_rows for group in groups if group.num_rows)])[:-1]
    inner = {at for at, rows, earlier in zip(first_us[1:], before[1:], before[:-1], strict=True)
             if rows // SPAN_ROWS != earlier // SPAN_ROWS}  # fmt: skip
    bounds = [piece.partition.first_us, *sorted(inner), piece.partition.last_us + 1]
    yield from pairwise(bounds)


def _us(at: object) -> int:
    return pa.scalar(at, schema.TIME).cast(pa.int64()).as_py()


@dataclass(frozen=True)
class _Named:
    """The named requests of one piece, including their rows in later pieces."""

    users: UserLog
    place: int
    held: pa.Table
    request_at: Int64
    row_offsets: Int64
    end_offset: npt.NDArray[np.int32]
    known_at: Int64
    began_earlier: npt.NDArray[np.bool_]  # the request began in an earlier piece, which writes it
    moved: Moved

    @classmethod
    def of(cls, users: UserLog, place: int, moved: Moved) -> "_Named":
        held = users.pieces[place].table("requests")
        by_user = users.pieces[place].table("by_user")["place"].to_numpy()
        ends = np.empty(len(held), np.int32)
        ends[by_user] = read_end_offsets(users, place)
        began_earlier = np.zeros(len(held), bool)
        began_earlier[moved.from_place[moved.from_piece == place]] = True
        at, counts = held["request_at"].to_numpy(), held["num_rows"].to_numpy()
        known, mine = _known_at(held), moved.to_piece == place
        for piece in np.unique(moved.from_piece[mine]):
            later = mine & (moved.from_piece == piece)
            told = _known_at(users.pieces[int(piece)].table("requests"))
            np.maximum.at(known, moved.to_place[later], told[moved.from_place[later]])
        return cls(
            users, place, held, at, np.r_[0, np.cumsum(counts, dtype=np.int64)], ends, known, began_earlier, moved
        )

    def between(self, first_us: int, end_us: int) -> RequestTable:
        """Requests at times [first, end)."""
        first, end = np.searchsorted(self.request_at, [first_us, end_us])
        held = self.held.slice(first, end - first)
        members = self.users.members(self.place)["user_index"].to_numpy()
        counts, owned_here = held["num_rows"].to_numpy(), ~self.began_earlier[first:end]
        rows = slice(self.row_offsets[first], self.row_offsets[end])
        asked = self.users.pieces[self.place].table("asked").slice(rows.start, rows.stop - rows.start)
        item_index = self.users.item_index(self.place)[asked["item_code"].to_numpy()]
        label = asked["label"].to_numpy()
        mine = (self.moved.to_piece == self.place) & (self.moved.to_place >= first) & (self.moved.to_place < end)
        if mine.any():
            of = np.repeat(np.arange(first, end), counts)
            joined = self._with_later(of, item_index, asked, np.flatnonzero(mine))
            of, item_index, label = joined
            counts = np.bincount(of - first, minlength=end - first).astype(np.int32)
        if not owned_here.all():
            of_owned = np.repeat(owned_here, counts)
            item_index, label = item_index[of_owned], label[of_owned]
        user = members[held["user_code"].to_numpy()][owned_here]
        name = held["impression_id"].filter(pa.array(owned_here))
        at, known = self.request_at[first:end][owned_here], self.known_at[first:end][owned_here]
        ends = self.end_offset[first:end][owned_here]
        return RequestTable(at, user, name, ends, counts[owned_here], known, item_index, label)

    def _with_later(
        self, of: Int64, item_index: npt.NDArray[np.int32], asked: pa.Table, mine: Int64
    ) -> tuple[Int64, npt.NDArray[np.int32], npt.NDArray[np.float32]]:
        """(request, item_index, label) of each row, with the rows of later pieces inserted in order."""
        parts = [(of, item_index, *(asked[name].to_numpy() for name in ("label", "position", "event_key")))]
        for piece in np.unique(self.moved.from_piece[mine]):
            chosen = mine[self.moved.from_piece[mine] == piece]
            counts = self.users.pieces[piece].table("requests")["num_rows"].to_numpy()
            starts = np.r_[0, np.cumsum(counts, dtype=np.int64)]
            places = self.moved.from_place[chosen]
            rows = pa.array(positions(starts[places], counts[places]))
            later = self.users.pieces[piece].table("asked").take(rows)
            columns = [later[name].to_numpy() for name in ("label", "position", "event_key")]
            to = np.repeat(self.moved.to_place[chosen], counts[places])
            parts.append((to, self.users.item_index(int(piece))[later["item_code"].to_numpy()], *columns))
        of, item_index, label, position, key = (np.concatenate(each) for each in zip(*parts, strict=True))
        order = np.lexsort((key, item_index, position, of))
        return of[order], item_index[order], label[order]


def _known_at(requests: pa.Table) -> Int64:
    """A writable copy."""
    return requests["known_at"].fill_null(NOT_LATER).to_numpy().copy()


def _blocks_between(
    blocks: Sequence[Blocks], user_ids: pa.ChunkedArray, first_us: int, end_us: int
) -> Iterator[RequestTable]:
    for each in blocks:
        at = each.requests["request_at"].to_numpy()
        first, end = np.searchsorted(at, [first_us, end_us])
        if first == end:
            continue
        counts = each.requests["num_rows"].to_numpy()
        num_rows = int(counts[first:end].sum(dtype=np.int64))
        rows = each.rows.slice(each.requests["first_row"][int(first)].as_py(), num_rows)
        held = each.requests.slice(first, end - first)
        user = held["user_index"].to_numpy()
        ordinal = held["ordinal"].cast(pa.string())
        name = pc.binary_join_element_wise(user_ids.take(pa.array(user)), ordinal, "/")
        ends, known = held["end_offset"].to_numpy(), held["known_at"].to_numpy()
        item_index, label = rows["item_index"].to_numpy(), rows["label"].to_numpy()
        yield RequestTable(at[first:end], user, name, ends, counts[first:end], known, item_index, label)


def _in_order(parts: list[RequestTable]) -> RequestTable:
    """All of them by (time, user, name)."""
    at, user, ends, counts, known, item_index, label = (
        np.concatenate([getattr(part, name) for part in parts])
        for name in ("request_at", "user_index", "end_offset", "num_rows", "known_at", "item_index", "label")
    )
    name = pa.chunked_array([chunk for part in parts for chunk in part.name.chunks], pa.string())
    order = np.lexsort((user, at))
    tied = np.flatnonzero((at[order][1:] == at[order][:-1]) & (user[order][1:] == user[order][:-1]))
    if len(tied):
        places = np.unique(np.r_[tied, tied + 1])
        some = order[places]
        keys = pa.table({"at": at[some], "user": user[some], "name": name.take(pa.array(some))})
        by_name = pc.sort_indices(keys, sort_keys=[(key, "ascending") for key in keys.column_names])
        order[places] = some[by_name.to_numpy()]
    starts = np.cumsum(counts, dtype=np.int64) - counts
    rows = positions(starts[order], counts[order])
    of_requests = (at[order], user[order], name.take(pa.array(order)), ends[order], counts[order], known[order])
    return RequestTable(*of_requests, item_index[rows], label[rows])


def _impressions(first_index: int, requests: RequestTable) -> pa.Table:
    number = np.arange(first_index, first_index + len(requests.num_rows), dtype=np.int32)
    of_requests = (number, requests.user_index, requests.request_at.astype("datetime64[us]"), requests.end_offset)
    index, user, at, end = (pa.array(np.repeat(column, requests.num_rows)) for column in of_requests)
    columns = [index, user, pa.array(requests.item_index), at.cast(schema.TIME), pa.array(requests.label), end]
    return pa.table(columns, schema=schema.IMPRESSIONS)


@contextmanager
def _with_contexts(
    connection: Backend, contexts: ir.Table, path: Path
) -> Iterator[Callable[[int, RequestTable], None]]:
    """Append the names and contexts of requests, numbered consecutively, to a file."""
    any_context = bool(connection.to_pyarrow(contexts.count()).as_py())
    held: list[pa.Table] = []
    with row_groups(path, schema.REQUESTS) as append:

        def write() -> None:
            table = pa.concat_tables(held)
            held.clear()
            if any_context:
                joined = ibis.memtable(table).left_join(contexts, "impression_id").order_by("request_index")
                table = connection.to_pyarrow(joined.select(*schema.REQUESTS.names))
            else:
                for field in schema.CONTEXTS:
                    if field.name not in table.column_names:
                        table = table.append_column(field.name, pa.nulls(len(table), field.type))
                table = table.select(schema.REQUESTS.names)
            append(table)

        def add(first_index: int, requests: RequestTable) -> None:
            number = pa.array(np.arange(first_index, first_index + len(requests.name), dtype=np.int32))
            known = pa.array(requests.known_at, mask=requests.known_at == NOT_LATER).cast(schema.TIME)
            held.append(pa.table({"request_index": number, "impression_id": requests.name, "known_at": known}))
            if sum(map(len, held)) >= SPAN_ROWS:
                write()

        yield add
        if held:
            write()
