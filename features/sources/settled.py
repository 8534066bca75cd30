"""Pieces of a log -> which rows other rows change, and what they become: requests parted and items joined, everywhere.

What one row says of another is found by keys alone, so that only the rows concerned are read, a share of the requests
at a time; for most logs there are none.
"""
# pyright: reportAttributeAccessIssue=false

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa

from contracts.schema import REJECTED
from features.sources.arrivals import code
from features.sources.concerned import Concerned, concerned
from features.sources.joined import join_repeats
from features.sources.log import EVENTS
from features.sources.pieces import Piece, PieceWriter, blocks_of
from features.sources.reused import part_reused
from features.tables.cache import PartitionCache
from features.tables.runs import Keys, apart, are_in, repeated
from features.terms.params import SourceParams

SHARE_ROWS = 2_000_000
"""Rows of the log for each share of the requests."""


@dataclass(frozen=True)
class Settled:
    """What the rows of a log are beside each other."""

    wide: Keys  # requests whose rows lie far apart, in order
    shared: Keys  # items that a request has more than once
    became: Piece  # what stands for the rows of these requests and items
    left: pa.Table  # REJECTED: rows that are part of another, or too late
    num_apart: int  # requests that have a name of their own now
    concerned: Mapping[Piece, Concerned] = field(default_factory=dict)

    def of(self, piece: Piece, partition: str) -> Iterator[pa.Table]:
        """The rows of a piece that no other row changes."""
        for _, events, request_key, item_key in piece.with_keys(partition):
            changed = are_in(request_key, self.wide) | are_in(item_key, self.shared)
            table = pa.Table.from_batches([events])
            yield table.filter(pa.array(~changed)) if changed.any() else table

    def told(self, pieces: Iterable[Piece], partition: str) -> str:
        """A hash of what other rows change in a partition; empty where they change nothing."""
        told = [self.concerned[piece].told.get(partition, "") for piece in pieces]
        return hashlib.sha256("|".join(told).encode()).hexdigest() if any(told) else ""

    @property
    def keys(self) -> set[str]:
        """What the cache has of it."""
        return {each.key for each in self.concerned.values() if each.key}


def settle(pieces: Sequence[Piece], source: SourceParams, cache: PartitionCache, scratch: Path) -> Settled:
    """Find the rows that others change, and say what they become. scratch: a folder for what stands for them."""
    apart_us = min(round(source.shown_s * 1_000_000), round(source.join_s * 1_000_000))
    wide = apart([piece.requests for piece in pieces], apart_us)
    shared = repeated([piece.items for piece in pieces])
    mine = {piece: concerned(piece, wide, shared, code(), cache, scratch) for piece in pieces}
    writer = PieceWriter(scratch / "became", source.partition[0].upper())
    left, num_apart = [REJECTED.empty_table()], 0
    if len(wide) or len(shared):
        num_shares = 1 + sum(piece.num_rows for piece in pieces) // SHARE_ROWS
        for rows in _shares(list(mine.values()), num_shares, scratch / "changed"):
            parted, late, num = part_reused(rows, source.shown_s, source.join_s)
            joined, second = join_repeats(parted, source.join_s)
            for block in blocks_of(joined):
                writer.add(block, is_settled=True)
            left += [late, second]
            num_apart += num
    writer.close()
    order = [(name, "ascending") for name in ("file", "line", "reason", "raw")]
    gone = pa.concat_tables(left).sort_by(order)
    return Settled(wide, shared, Piece(scratch / "became"), gone, num_apart, mine)


def _shares(changed: Sequence[Concerned], num: int, folder: Path) -> Iterator[pa.Table]:
    """The rows concerned, whole requests together; more shares the longer the log is."""
    folder.mkdir()
    paths = [folder / f"{share}.arrow" for share in range(num)]
    with ExitStack() as opened:
        writers = [opened.enter_context(pa.ipc.new_file(str(path), EVENTS)) for path in paths]
        for each in changed:
            for events, request_key in each.batches():
                share_of = request_key % num
                for share in np.unique(share_of).tolist():
                    writers[share].write_batch(events.filter(pa.array(share_of == share)))
    for path in paths:
        with pa.OSFile(str(path)) as handle:
            yield pa.ipc.open_file(handle).read_all()
        path.unlink()
