"""Pieces of a log -> which rows other rows change, and what they become: requests parted and items joined, everywhere.

What one row says of another is found by keys alone, so that only the rows concerned are read, a share of the requests
at a time; for most logs there are none.
"""
# pyright: reportAttributeAccessIssue=false

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from contracts.schema import REJECTED
from features.sources.joined import join_repeats
from features.sources.log import EVENTS
from features.sources.pieces import KEYS, Keys, Piece, PieceWriter, blocks_of
from features.sources.reused import part_reused
from features.tables.connection import connect
from features.terms.params import SourceParams

SHARE_ROWS = 2_000_000
"""Rows of the log for each share of the requests."""
_WIDE = """
    SELECT request_key FROM keys WHERE request_key <> 0 GROUP BY request_key HAVING max(us) - min(us) > $apart_us
"""
_SHARED = "SELECT item_key FROM keys WHERE item_key <> 0 GROUP BY item_key HAVING count(*) > 1"


@dataclass(frozen=True)
class Settled:
    """What the rows of a log are beside each other."""

    wide: Keys  # requests whose rows lie far apart, in order
    shared: Keys  # items that a request has more than once
    became: Piece  # what stands for the rows of these requests and items
    left: pa.Table  # REJECTED: rows that are part of another, or too late
    num_apart: int  # requests that have a name of their own now

    def of(self, piece: Piece, partition: str) -> Iterator[pa.Table]:
        """The rows of a piece that no other row changes."""
        for events, request_key, item_key in piece.with_keys(partition):
            mine = ~self._changes(request_key, item_key)
            table = pa.Table.from_batches([events])
            yield table if mine.all() else table.filter(pa.array(mine))

    def told(self, pieces: Iterable[Piece], partition: str) -> str:
        """A hash of what other rows change in a partition; empty where they change nothing."""
        if not len(self.wide) and not len(self.shared):
            return ""
        digest, num = hashlib.sha256(), 0
        for piece in pieces:
            for keys in piece.keys(partition):
                changed = self._changes(keys["request_key"].to_numpy(), keys["item_key"].to_numpy())
                digest.update(np.packbits(changed).tobytes())
                num += int(changed.sum())
        return digest.hexdigest() if num else ""

    def _changes(self, request_key: Keys, item_key: Keys) -> np.ndarray:
        return _are_in(request_key, self.wide) | _are_in(item_key, self.shared)


def settle(pieces: Sequence[Piece], source: SourceParams, scratch: Path) -> Settled:
    """Find the rows that others change, and say what they become. scratch: a folder for what stands for them."""
    apart_us = min(round(source.shown_s * 1_000_000), round(source.join_s * 1_000_000))
    wide, shared = _keys(pieces, _WIDE, apart_us), _keys(pieces, _SHARED)
    writer = PieceWriter(scratch / "became", source.partition[0].upper())
    left, num_apart = [REJECTED.empty_table()], 0
    if len(wide) or len(shared):
        for rows in _shares(pieces, wide, shared, scratch / "changed"):
            parted, late, num = part_reused(rows, source.shown_s, source.join_s)
            joined, second = join_repeats(parted, source.join_s)
            for block in blocks_of(joined):
                writer.add(block, is_settled=True)
            left += [late, second]
            num_apart += num
    writer.close()
    order = [(name, "ascending") for name in ("file", "line", "reason", "raw")]
    return Settled(wide, shared, Piece(scratch / "became"), pa.concat_tables(left).sort_by(order), num_apart)


def _keys(pieces: Sequence[Piece], query: str, apart_us: int | None = None) -> Keys:
    def batches() -> Iterator[pa.RecordBatch]:
        for piece in pieces:
            yield from piece.keys()

    with connect() as connection:
        connection.register("keys", pa.RecordBatchReader.from_batches(KEYS, batches()))
        found = connection.execute(query, None if apart_us is None else {"apart_us": apart_us}).fetchnumpy()
    return np.sort(next(iter(found.values())))


def _shares(pieces: Sequence[Piece], wide: Keys, shared: Keys, folder: Path) -> Iterator[pa.Table]:
    """The rows concerned, whole requests together; more shares the longer the log is."""
    num = 1 + sum(piece.num_rows for piece in pieces) // SHARE_ROWS
    folder.mkdir()
    paths = [folder / f"{share}.arrow" for share in range(num)]
    with ExitStack() as opened:
        writers = [opened.enter_context(pa.ipc.new_file(str(path), EVENTS)) for path in paths]
        for piece in pieces:
            for events, request_key, item_key in piece.with_keys():
                concerned = _are_in(request_key, wide) | _are_in(item_key, shared)
                for share in np.unique(request_key[concerned] % num).tolist():
                    mine = concerned & (request_key % num == share)
                    writers[share].write_batch(events.filter(pa.array(mine)))
    for path in paths:
        with pa.OSFile(str(path)) as handle:
            yield pa.ipc.open_file(handle).read_all()
        path.unlink()


def _are_in(keys: Keys, wanted: Keys) -> np.ndarray:
    """wanted: in order."""
    if not len(wanted):
        return np.zeros(len(keys), bool)
    place = np.minimum(np.searchsorted(wanted, keys), len(wanted) - 1)
    return wanted[place] == keys
