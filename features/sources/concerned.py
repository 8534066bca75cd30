"""A piece, and keys of requests and items whose rows depend on other rows -> the piece's rows with these keys, cached.

The cache is keyed by the piece and the keys, so a new file of the log rereads only pieces whose set of keys it changes.
"""
# pyright: reportAttributeAccessIssue=false

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from contracts.publish import write_json
from features.sources.log import EVENTS
from features.sources.pieces import Piece
from features.tables.cache import PartitionCache, key_of
from features.tables.runs import Keys, are_in, held

TABLES = ("rows.arrow", "changed.json", "requests.npy")
ROWS = EVENTS.append(pa.field("request_key", pa.uint64()))


@dataclass(frozen=True)
class Concerned:
    """The rows of a piece that depend on other rows."""

    changed: Mapping[str, str]  # partition -> a hash of which of its rows they are
    rows: Path | None  # None: there are none
    requests: Keys  # of these rows, in order, each once
    key: str  # in the cache; empty if they are not cached

    def batches(self) -> Iterator[tuple[pa.RecordBatch, Keys]]:
        """(EVENTS, their requests' keys), batch by batch."""
        if self.rows:
            with pa.OSFile(str(self.rows)) as handle:
                reader = pa.ipc.open_file(handle)
                for place in range(reader.num_record_batches):
                    batch = reader.get_batch(place)
                    yield batch.select(EVENTS.names), batch["request_key"].to_numpy()


def concerned(piece: Piece, wide: Keys, shared: Keys, basis: object, cache: PartitionCache, scratch: Path) -> Concerned:
    """The piece's rows of these requests and items. basis: what else they depend on. scratch: for an uncached piece."""
    wide, shared = held(piece.requests, wide), held(piece.items, shared)
    if not len(wide) and not len(shared):
        return recalled("", cache)
    if not piece.key:
        folder = scratch / f"concerned-{piece.folder.name}"
        folder.mkdir()
        _make(piece, wide, shared, folder)
        return _read(folder, "")
    digest = hashlib.sha256(wide.tobytes() + b"|" + shared.tobytes()).hexdigest()
    key = key_of(basis, "concerned", piece.key, digest)
    if not cache.holds(key):
        with cache.making() as making:
            (making / key).mkdir()
            num = _make(piece, wide, shared, making / key)
            cache.put(key, making / key, dict(zip(TABLES, (num, 0, 0), strict=True)))
    return recalled(key, cache)


def recalled(key: str, cache: PartitionCache) -> Concerned:
    """What the cache has under a key; none under an empty one."""
    if not key:
        return Concerned({}, None, np.zeros(0, np.uint64), "")
    return _read(cache.folder / key, key)


def _read(folder: Path, key: str) -> Concerned:
    rows, changed, requests = (folder / name for name in TABLES)
    return Concerned(json.loads(changed.read_text(encoding="utf-8")), rows, np.load(requests), key)


def _make(piece: Piece, wide: Keys, shared: Keys, folder: Path) -> int:
    which: dict[str, list[str]] = {}
    requests = [np.zeros(0, np.uint64)]
    num = 0
    with pa.ipc.new_file(str(folder / TABLES[0]), ROWS, options=pa.ipc.IpcWriteOptions(compression="lz4")) as file:
        for partition, events, request_key, item_key in piece.with_keys():
            mine = are_in(request_key, wide) | are_in(item_key, shared)
            digest = hashlib.sha256(np.packbits(mine).tobytes()).hexdigest() if mine.any() else ""
            which.setdefault(partition, []).append(digest)
            if digest:
                rows = pa.Table.from_batches([events]).append_column(ROWS.field("request_key"), pa.array(request_key))
                file.write_table(rows.filter(pa.array(mine)).cast(ROWS).combine_chunks())
                num += int(mine.sum())
                requests.append(np.unique(request_key[mine]))
    # which batch a digest is of counts too: between the digests stand as many separators as there are batches
    changed = {name: hashlib.sha256("|".join(all_).encode()).hexdigest() for name, all_ in which.items() if any(all_)}
    write_json(folder / TABLES[1], changed)
    np.save(folder / TABLES[2], np.unique(np.concatenate(requests)))
    return num
