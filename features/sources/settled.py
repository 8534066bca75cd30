"""Pieces of a log -> the rows that depend on other rows, rewritten: reused impression_ids split, repeated items joined.

Such rows are found by the keys of requests and items alone, so only they are read, a share of the requests at a time.
Most logs have none.
"""
# pyright: reportAttributeAccessIssue=false

import hashlib
import json
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from contracts.publish import write_json
from contracts.schema import REJECTED
from features.sources.arrivals import code
from features.sources.concerned import Concerned, concerned, recalled
from features.sources.joined import join_repeats
from features.sources.log import EVENTS
from features.sources.pieces import TABLES, Piece, PieceWriter, blocks_of
from features.sources.reused import split_reused
from features.tables.cache import PartitionCache, key_of
from features.tables.runs import Keys, apart, are_in, repeated
from features.terms.params import SourceParams

SHARE_ROWS = 2_000_000
"""There is one share of the requests for every so many rows of the log."""
ARRAYS, LEFT, NOTES = ("wide.npy", "shared.npy"), "left", "settled.json"
"""Beside the files of a piece: what is cached of pieces that were settled."""


@dataclass(frozen=True)
class Settled:
    """Which rows of a log depend on others, and the rows that replace them."""

    wide: Keys  # requests whose rows are far apart in time, in order
    shared: Keys  # items that a request has more than once, in order
    rewritten: Piece  # the rows that replace those of these requests and items
    rejected: pa.Table  # REJECTED: rows joined to another, or too late
    num_renamed: int  # requests that got a new impression_id
    concerned: Mapping[Piece, Concerned] = field(default_factory=dict)
    key: str = ""  # of all this in the cache; empty where a piece has none

    def of(self, piece: Piece, partition: str) -> Iterator[pa.Table]:
        """The rows of a piece in a partition that do not depend on other rows."""
        for _, events, request_key, item_key in piece.with_keys(partition):
            changed = are_in(request_key, self.wide) | are_in(item_key, self.shared)
            table = pa.Table.from_batches([events])
            yield table.filter(pa.array(~changed)) if changed.any() else table

    def changed(self, pieces: Iterable[Piece], partition: str) -> str:
        """A hash of which rows of a partition depend on others; empty if none does."""
        hashes = [self.concerned[piece].changed.get(partition, "") for piece in pieces]
        return hashlib.sha256("|".join(hashes).encode()).hexdigest() if any(hashes) else ""

    @property
    def keys(self) -> set[str]:
        """The keys of its entries in the cache."""
        return {each for each in (self.key, *(each.key for each in self.concerned.values())) if each}


def settle(pieces: Sequence[Piece], source: SourceParams, cache: PartitionCache, scratch: Path) -> Settled:
    """Find the rows that depend on others and rewrite them; for the pieces of the last run the outcome is cached.

    scratch: a folder for temporary files.
    """
    if not all(piece.key for piece in pieces):
        return _settle(pieces, source, cache, scratch)
    asked = (source.shown_s, source.join_s, source.partition)
    key = key_of(code(), "settled", [piece.key for piece in pieces], asked)
    if (known := _recall(key, pieces, cache)) is not None:
        return known
    made = replace(_settle(pieces, source, cache, scratch), key=key)
    _keep(made, cache, scratch)
    return made


def _recall(key: str, pieces: Sequence[Piece], cache: PartitionCache) -> Settled | None:
    if not cache.holds(key):
        return None
    notes = json.loads(cache.file(key, NOTES).read_text(encoding="utf-8"))
    if not all(cache.holds(each) for each in notes["concerned"] if each):
        return None
    mine = {piece: recalled(each, cache) for piece, each in zip(pieces, notes["concerned"], strict=True)}
    wide, shared = (np.load(cache.file(key, name)) for name in ARRAYS)
    left = pq.read_table(cache.file(key, LEFT), schema=REJECTED)
    return Settled(wide, shared, Piece(cache.file(key, NOTES).parent), left, notes["num_renamed"], mine, key)


def _keep(made: Settled, cache: PartitionCache, scratch: Path) -> None:
    notes = {"num_renamed": made.num_renamed, "concerned": [each.key for each in made.concerned.values()]}
    with cache.making() as making:
        folder = making / made.key
        shutil.copytree(scratch / "rewritten", folder)
        for name, keys in zip(ARRAYS, (made.wide, made.shared), strict=True):
            np.save(folder / name, keys)
        pq.write_table(made.rejected, folder / f"{LEFT}.parquet")
        write_json(folder / NOTES, notes)
        cache.put(made.key, folder, dict.fromkeys((*TABLES, *ARRAYS, LEFT, NOTES), 0))


def _settle(pieces: Sequence[Piece], source: SourceParams, cache: PartitionCache, scratch: Path) -> Settled:
    apart_us = min(round(source.shown_s * 1_000_000), round(source.join_s * 1_000_000))
    wide = apart([piece.requests for piece in pieces], apart_us)
    shared = repeated([piece.items for piece in pieces])
    mine = {piece: concerned(piece, wide, shared, code(), cache, scratch) for piece in pieces}
    writer = PieceWriter(scratch / "rewritten", source.partition[0].upper())
    rejected, num_renamed = [REJECTED.empty_table()], 0
    if len(wide) or len(shared):
        num_shares = 1 + sum(piece.num_rows for piece in pieces) // SHARE_ROWS
        for rows in _shares(list(mine.values()), num_shares, scratch / "changed"):
            renamed, late, num = split_reused(rows, source.shown_s, source.join_s)
            joined, repeats = join_repeats(renamed, source.join_s)
            for block in blocks_of(joined):
                writer.add(block, is_settled=True)
            rejected += [late, repeats]
            num_renamed += num
    writer.close()
    order = [(name, "ascending") for name in ("file", "line", "reason", "raw")]
    together = pa.concat_tables(rejected).sort_by(order)
    return Settled(wide, shared, Piece(scratch / "rewritten"), together, num_renamed, mine)


def _shares(changed: Sequence[Concerned], num: int, folder: Path) -> Iterator[pa.Table]:
    """The rows of all pieces in `num` shares; all rows of a request are in the same share."""
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
