"""A range of users -> its requests, named or blocks, each with its end_offset, stored until all are numbered.

A named request with rows in several partitions is one request: it belongs to the partition of its earliest row.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from features.history.blocks import block_starts, end_offsets
from features.history.queries import MAY_BE_IN_BLOCK, NO_POSITION
from features.history.users import NamedRequests, UserLog, UserRows
from features.tables.arrow_file import read_arrow, store_arrow
from features.terms.convention import micros
from features.terms.params import RequestParams
from features.terms.slices import positions

Int64 = npt.NDArray[np.int64]
Bool = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Moved:
    """Named requests continued in a later partition: the rows of request from_[i] belong to request to[i]."""

    from_piece: Int64
    from_place: Int64
    to_piece: Int64
    to_place: Int64

    @classmethod
    def of(cls, requests: NamedRequests) -> "Moved":
        """From the requests of whole users: requests with the same user and name go to the earliest piece."""
        names = np.sort(requests.name_key)
        twice = names[1:][names[1:] == names[:-1]]
        some = np.flatnonzero(np.isin(requests.name_key, twice)) if len(twice) else np.zeros(0, np.int64)
        order = some[np.lexsort((requests.piece[some], requests.name_key[some], requests.user_index[some]))]
        user, name = requests.user_index[order], requests.name_key[order]
        leads = np.r_[True, (user[1:] != user[:-1]) | (name[1:] != name[:-1])][: len(order)]
        leader = order[np.flatnonzero(leads)[np.cumsum(leads) - 1]]
        later = ~leads
        sides = (order[later], leader[later])
        columns = [each[side].astype(np.int64) for side in sides for each in (requests.piece, requests.place)]
        return cls(*columns)

    @classmethod
    def all_of(cls, parts: list["Moved"]) -> "Moved":
        """Concatenated."""
        columns = zip(
            *((each.from_piece, each.from_place, each.to_piece, each.to_place) for each in parts), strict=True
        )
        return cls(*(np.concatenate(column) for column in columns))


@dataclass(frozen=True)
class Blocks:
    """B blocks of a range of users in order of time, ties by user; and their rows, each in a request's order."""

    requests: pa.Table  # request_at, user_index, ordinal, end_offset, num_rows, first_row, known_at
    rows: pa.Table  # item_index, label

    def write(self, folder: Path) -> None:
        """Store the blocks of a range in its folder."""
        for name in ("requests", "rows"):
            store_arrow(getattr(self, name), folder / f"block-{name}.arrow")

    @classmethod
    def read(cls, folder: Path) -> "Blocks":
        """Memory-map what `write` stored."""
        return cls(*(read_arrow(folder / f"block-{name}.arrow") for name in ("requests", "rows")))


def find_blocks(
    rows: UserRows, num_rows: Int64, params: RequestParams, lag_us: int, at: Int64, offsets: Int64
) -> tuple[Blocks, Bool]:
    """The blocks of users with enough rows, and a mask [N] of the rows in a block.

    num_rows: of each user of the range. at, offsets: times of the range's events, and each user's first event.
    """
    nameless = (rows.kind == MAY_BE_IN_BLOCK) & np.repeat(num_rows >= params.min_user_events, num_rows)
    place = np.flatnonzero(nameless)
    user, occurred_at = rows.user_index[place], rows.occurred_at[place]
    starts = block_starts(user, occurred_at, params.block_size, micros(params.block_s))
    counts = np.diff(np.r_[starts, len(place)])
    first = np.searchsorted(user[starts], user[starts], side="left")
    request_at = occurred_at[starts]
    ends = end_offsets(at, offsets, user[starts] - rows.first, request_at - lag_us)
    order = np.argsort(request_at, kind="stable")
    requests = {
        "request_at": request_at[order],
        "user_index": user[starts][order],
        "ordinal": (np.arange(len(starts)) - first)[order],
        "end_offset": ends[order].astype(np.int32),
        "num_rows": counts[order].astype(np.int32),
        "first_row": np.cumsum(counts[order]) - counts[order],
        "known_at": _known_at(rows, place, starts)[order],
    }
    inside = place[_within_blocks(rows, place, np.repeat(np.arange(len(starts)), counts))]
    inside = inside[positions(starts[order], counts[order])]
    kept = {"item_index": rows.item_index[inside], "label": rows.label[inside]}
    return Blocks(pa.table(requests), pa.table(kept)), nameless


END_OFFSETS = "end_offsets.npy"
"""File in a range's folder: int32 end_offset of each of its named requests, in the order of users.requests(number)."""


def read_end_offsets(users: UserLog, place: int) -> npt.NDArray[np.int32]:
    """The end_offsets of a piece's requests, in the order of its by_user: that of the ranges."""
    found = [np.zeros(0, np.int32)]
    for number in range(len(users.starts) - 1):
        inner = users.request_slice(number, place)
        if inner.stop > inner.start:
            found.append(np.load(users.range_folder(number) / END_OFFSETS, mmap_mode="r")[inner])
    return np.concatenate(found)


NOT_LATER = 0
"""The known_at of a request whose rows and clicks were all known at their own times."""


def _known_at(rows: UserRows, place: Int64, starts: Int64) -> Int64:
    """[B] the latest time at which a row or click of each block became known late; NOT_LATER if none was late."""
    click_at = rows.click_at[place]
    late = np.where(click_at > rows.occurred_at[place], click_at, NOT_LATER)
    return np.maximum.reduceat(late, starts) if len(starts) else np.zeros(0, np.int64)


def _within_blocks(rows: UserRows, place: Int64, block: Int64) -> Int64:
    """The order of a request's rows: by position, item and event_key."""
    position, item = rows.position[place], rows.item_index[place]
    if (position == NO_POSITION).all():
        return np.lexsort((rows.event_key[place], block << 32 | item))
    return np.lexsort((rows.event_key[place], position.astype(np.int64) << 32 | item, block))
