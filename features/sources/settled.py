"""Pieces of a log -> the rows that depend on other rows, rewritten: reused impression_ids split, repeated items joined.

Such rows are found by the keys of requests and items alone, so only they are read, a share of the requests at a time.
Most logs have none. Requests that lie in one piece are rewritten apart from those of several, and cached by that piece:
a new file of the log does not change them.
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
from features.sources.joined import join_repeats, say
from features.sources.log import EVENTS
from features.sources.order import MOST_IN_MEMORY, digest_of
from features.sources.pieces import TABLES, Piece, PieceWriter, blocks_of
from features.sources.reused import split_reused
from features.tables.cache import PartitionCache, key_of
from features.tables.runs import Keys, apart, are_in, repeated
from features.terms.params import SourceParams

SHARE_ROWS = 2_000_000
"""There is one share of the requests for every so many rows of the log."""
ARRAYS, LEFT, NOTES, DIGESTS = ("wide.npy", "shared.npy"), "left", "settled.json", "digests.json"
"""Beside the files of a piece: what is cached of pieces that were settled."""
ACROSS = "across"


@dataclass(frozen=True)
class Settled:
    """Which rows of a log depend on others, and the rows that replace them."""

    wide: Keys  # requests whose rows are far apart in time, in order
    shared: Keys  # items that a request has more than once, in order
    rewritten: Sequence["Rewritten"]  # the rows that replace those of these requests and items
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
        of_pieces = (each.key for each in (*self.concerned.values(), *self.rewritten))
        return {key for key in (self.key, *of_pieces) if key}


@dataclass(frozen=True)
class Rewritten:
    """Rows of some requests, rewritten; with those that were rejected."""

    piece: Piece
    digests: Mapping[str, str]  # partition -> a hash of its rows in any order; empty for one too large to be sorted
    key: str  # in the cache; empty if it is not cached by itself

    @classmethod
    def of(cls, folder: Path, key: str = "") -> "Rewritten":
        """Read what `_rewrite` wrote."""
        return cls(Piece(folder), json.loads((folder / DIGESTS).read_text(encoding="utf-8")), key)


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
    if not all(cache.holds(each) for each in (*notes["concerned"], *notes["rewritten"]) if each):
        return None
    mine = {piece: recalled(each, cache) for piece, each in zip(pieces, notes["concerned"], strict=True)}
    wide, shared = (np.load(cache.file(key, name)) for name in ARRAYS)
    left = pq.read_table(cache.file(key, LEFT), schema=REJECTED)
    # of requests of several pieces: in this entry itself
    rewritten = [Rewritten.of(cache.folder / (each or key), each) for each in notes["rewritten"]]
    return Settled(wide, shared, rewritten, left, notes["num_renamed"], mine, key)


def _keep(made: Settled, cache: PartitionCache, scratch: Path) -> None:
    notes = {"num_renamed": made.num_renamed, "concerned": [each.key for each in made.concerned.values()]}
    notes |= {"rewritten": [each.key for each in made.rewritten]}
    with cache.making() as making:
        folder = making / made.key
        shutil.copytree(scratch / ACROSS, folder)
        for name, keys in zip(ARRAYS, (made.wide, made.shared), strict=True):
            np.save(folder / name, keys)
        pq.write_table(made.rejected, folder / f"{LEFT}.parquet")
        write_json(folder / NOTES, notes)
        cache.put(made.key, folder, dict.fromkeys((*TABLES, DIGESTS, *ARRAYS, LEFT, NOTES), 0))


def _settle(pieces: Sequence[Piece], source: SourceParams, cache: PartitionCache, scratch: Path) -> Settled:
    apart_us = min(round(source.shown_s * 1_000_000), round(source.join_s * 1_000_000))
    wide = apart([piece.requests for piece in pieces], apart_us)
    shared = repeated([piece.items for piece in pieces])
    mine = {piece: concerned(piece, wide, shared, code(), cache, scratch) for piece in pieces}
    across = _of_several([each.requests for each in mine.values()])
    rewritten = []
    for piece, each in mine.items():
        beside = across[are_in(across, each.requests)]
        if len(each.requests) > len(beside):
            rewritten.append(_alone(piece, each, beside, source, cache, scratch))
    num_shares = 1 + sum(piece.num_rows for piece in pieces) // SHARE_ROWS
    whole = list(mine.values()) if len(across) else []
    _rewrite(_shares(whole, num_shares, scratch / "changed", across, True), source, scratch / ACROSS)
    rewritten.append(Rewritten.of(scratch / ACROSS))
    order = [(name, "ascending") for name in ("file", "line", "reason", "raw")]
    together = pa.concat_tables([each.piece.rejected for each in rewritten]).sort_by(order)
    num_renamed, num_repeats = (
        sum(each.piece.notes[f"num_{of}"] for each in rewritten) for of in ("renamed", "repeats")
    )
    say(num_renamed, num_repeats)
    return Settled(wide, shared, rewritten, together, num_renamed, mine)


def _of_several(requests: Sequence[Keys]) -> Keys:
    """The requests that more than one piece has, in order."""
    ordered = np.sort(np.concatenate([np.zeros(0, np.uint64), *requests]))
    return np.unique(ordered[1:][ordered[1:] == ordered[:-1]])


def _alone(
    piece: Piece, of: Concerned, beside: Keys, source: SourceParams, cache: PartitionCache, scratch: Path
) -> Rewritten:
    """The rows of requests that no other piece has, from the cache if they have not changed.

    beside: the requests that another piece has too.
    """
    num_shares = 1 + piece.num_rows // SHARE_ROWS
    if not of.key:
        folder = scratch / f"alone-{piece.folder.name}"
        _rewrite(_shares([of], num_shares, folder.with_suffix(".shares"), beside, False), source, folder)
        return Rewritten.of(folder)
    asked = (source.shown_s, source.join_s, source.partition)
    key = key_of(code(), "alone", of.key, hashlib.sha256(beside.tobytes()).hexdigest(), asked)
    if not cache.holds(key):
        with cache.making() as making:
            num = _rewrite(_shares([of], num_shares, making / "shares", beside, False), source, making / key)
            cache.put(key, making / key, num)
    return Rewritten.of(cache.folder / key, key)


def _rewrite(shares: Iterable[pa.Table], source: SourceParams, folder: Path) -> dict[str, int]:
    """Write rows of whole requests, rewritten, as a piece; returns the number of rows of each table."""
    writer = PieceWriter(folder, source.partition[0].upper())
    num_renamed = num_repeats = 0
    for rows in shares:
        renamed, late, num = split_reused(rows, source.shown_s, source.join_s)
        joined, repeats = join_repeats(renamed, source.join_s)
        writer.add(EVENTS.empty_table(), pa.concat_tables([late, repeats]))
        for block in blocks_of(joined):
            writer.add(block, is_settled=True)
        num_renamed += num
        num_repeats += len(repeats)
    num_rows = writer.close({"num_renamed": num_renamed, "num_repeats": num_repeats})
    piece = Piece(folder)
    write_json(folder / DIGESTS, {name: _digest(piece, name) for name in sorted(piece.partitions)})
    return num_rows | {DIGESTS: 0}


def _digest(piece: Piece, partition: str) -> str:
    if piece.num_of(partition) > MOST_IN_MEMORY:
        return ""
    return digest_of(pa.concat_tables([pa.Table.from_batches([batch]) for batch in piece.events(partition)]))


def _shares(
    changed: Sequence[Concerned], num: int, folder: Path, requests: Keys, is_wanted: bool
) -> Iterator[pa.Table]:
    """The rows of these requests in `num` shares; all rows of a request are in the same share.

    is_wanted: whether rows of these requests are meant, or those of all others. folder: for temporary files.
    """
    if not changed:
        return
    folder.mkdir()
    paths = [folder / f"{share}.arrow" for share in range(num)]
    with ExitStack() as opened:
        writers = [opened.enter_context(pa.ipc.new_file(str(path), EVENTS)) for path in paths]
        for each in changed:
            for rows, keys in each.batches():
                wanted = are_in(keys, requests) == is_wanted
                events, request_key = rows.filter(pa.array(wanted)), keys[wanted]
                share_of = request_key % num
                for share in np.unique(share_of).tolist():
                    writers[share].write_batch(events.filter(pa.array(share_of == share)))
    for path in paths:
        with pa.OSFile(str(path)) as handle:
            yield pa.ipc.open_file(handle).read_all()
        path.unlink()
