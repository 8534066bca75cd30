"""Partitions of interactions and their flaws -> valid rows by partition and what is held back, shown to the judge.

What a partition became, and how a batch of partitions was judged, is kept by content (.cache/validate/<log>): what has
not changed is neither split nor judged again. Memory holds one partition, or one batch.
"""
# pyright: reportAttributeAccessIssue=false

import hashlib
import json
import logging
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from contracts.files import hash_file
from contracts.publish import write_json
from contracts.schema import INTERACTIONS, QUARANTINE
from features.quality.code import code
from features.quality.expectations import COLUMNS, Judgement
from features.quality.flaws import Flaws
from features.tables.cache import PartitionCache, key_of
from features.tables.connection import connect
from features.terms.convention import CLICKED

log = logging.getLogger("leitmotif")

BATCH_ROWS = 250_000
"""Great Expectations sees whole partitions, until they hold this many rows."""
ROW_GROUP = 1 << 18
FOUND = "found.json"


@dataclass(frozen=True)
class Judged:
    """A log's partitions, what is wrong with them, and who judges."""

    files: Sequence[Path]
    flaws: Flaws
    judgement: Judgement
    basis: str  # a hash of the rules and the suite
    cache: PartitionCache

    def split(self, provenance: Path, staging: Path) -> tuple[dict[str, Any], set[str]]:
        """Write valid rows by partition and the quarantine; returns the counts, and the keys of the cache.

        provenance: the folder with the places of each partition's rows, a file each.
        """
        hashes, keys, held_back = [hash_file(file) for file in self.files], set[str](), [QUARANTINE.empty_table()]
        rows_in, partitions, waiting, num_waiting = 0, {}, [], 0
        for place, file in enumerate(self.files):
            num = pq.read_metadata(file).num_rows
            target = staging / "validated_interactions" / file.name
            key, bad, num_valid = self._apply(place, hashes[place], num, target)
            keys |= {key} if key else set()
            if bad is not None:
                held_back.append(_with_places(bad, provenance / file.name, num, self._bad_rows(place)))
            partitions[file.stem] = num_valid
            rows_in += num
            waiting.append(place)
            num_waiting += num
            if num_waiting >= BATCH_ROWS or place == len(self.files) - 1:
                keys.add(self._judge(waiting, hashes))
                waiting, num_waiting = [], 0
        quarantine = pa.concat_tables(held_back)
        write(quarantine, QUARANTINE, staging / "quarantine" / "quarantine.parquet")
        reasons = {entry["values"]: entry["counts"] for entry in pc.value_counts(quarantine["reason"]).to_pylist()}
        counts = {
            "rows_in": rows_in,
            "rows_quarantined": len(quarantine),
            "rows_duplicated": int((self.flaws.repetition > 0).sum()),
            "quarantined_by_reason": reasons,
            "partitions": partitions,
        }
        return counts | _count(sorted((staging / "validated_interactions").iterdir())), keys

    def _bad_rows(self, place: int) -> npt.NDArray[np.int64]:
        here = self.flaws.of(place)
        return self.flaws.row[here][_is_bad(self.flaws, here)]

    def _apply(self, place: int, digest: str, num_rows: int, target: Path) -> tuple[str, pa.Table | None, int]:
        """Write one partition's valid rows; returns its key, its bad rows with their reason, and how many are valid."""
        file, here = self.files[place], self.flaws.of(place)
        leave = _is_bad(self.flaws, here) | (self.flaws.repetition[here] > 0)
        if not leave.any():
            shutil.copyfile(file, target)  # as it would be written again, byte by byte
            return "", None, num_rows
        key = key_of(code(), digest, self._digest([place]))
        if not self.cache.holds(key):
            self._keep(key, place, leave)
        num_valid = self.cache.num_rows(key)["valid"]
        if num_valid:
            shutil.copyfile(self.cache.file(key, "valid"), target)
        return key, pq.read_table(self.cache.file(key, "bad")), num_valid

    def _keep(self, key: str, place: int, leave: npt.NDArray[np.bool_]) -> None:
        here = self.flaws.of(place)
        is_bad = _is_bad(self.flaws, here)
        table = pq.read_table(self.files[place], schema=INTERACTIONS)
        keep = np.ones(len(table), dtype=bool)
        keep[self.flaws.row[here][leave]] = False
        reason = pa.array(self.flaws.reason[here][is_bad], pa.string())
        bad = table.take(pa.array(self.flaws.row[here][is_bad])).append_column(QUARANTINE.field("reason"), reason)
        valid = table.filter(pa.array(keep))
        with self.cache.making() as making:
            (making / key).mkdir()
            write(valid, INTERACTIONS, making / key / "valid.parquet")
            pq.write_table(bad, making / key / "bad.parquet")
            self.cache.put(key, making / key, {"valid": len(valid), "bad": len(bad)})

    def _judge(self, places: Sequence[int], hashes: Sequence[str]) -> str:
        """Show Great Expectations some partitions, or recall what it found; returns the key of that."""
        names = [self.files[place].stem for place in places]
        key = key_of(code(), self.basis, names, [hashes[place] for place in places], self._digest(places))
        if self.cache.holds(key):
            self.judgement.recall(json.loads(self.cache.file(key, FOUND).read_text(encoding="utf-8")))
            return key
        wanted = [name for name in ("event_id", *COLUMNS) if name in INTERACTIONS.names]
        tables = [self.flaws.judged(pq.read_table(self.files[place], columns=wanted), place) for place in places]
        found = self.judgement.add(pa.concat_tables(tables), f"{names[0]}_to_{names[-1]}")
        with self.cache.making() as making:
            (making / key).mkdir()
            write_json(making / key / FOUND, found)
            self.cache.put(key, making / key, {FOUND: 0})
        return key

    def _digest(self, places: Sequence[int]) -> str:
        """Of what is wrong with these partitions."""
        digest = hashlib.sha256()
        for place in places:
            here = self.flaws.of(place)
            for column in (self.flaws.row, self.flaws.repetition, self.flaws.num_users):
                digest.update(np.ascontiguousarray(column[here], np.int64).tobytes())
            digest.update(json.dumps(self.flaws.reason[here].tolist()).encode())
        return digest.hexdigest()


def _is_bad(flaws: Flaws, here: slice) -> npt.NDArray[np.bool_]:
    return np.array([text is not None for text in flaws.reason[here]], dtype=bool)


def _with_places(bad: pa.Table, provenance: Path, num_rows: int, rows: npt.NDArray[np.int64]) -> pa.Table:
    """The same with each row's file and line. rows: their places in the partition; provenance: the partition's."""
    parquet, start = pq.ParquetFile(provenance), 0
    assert parquet.metadata.num_rows == num_rows, (provenance, num_rows)
    found = [QUARANTINE.empty_table().select(["file", "line"])]
    for group in range(parquet.num_row_groups):
        end = start + parquet.metadata.row_group(group).num_rows
        here = rows[(rows >= start) & (rows < end)] - start
        if len(here):
            found.append(parquet.read_row_group(group, columns=["file", "line"]).take(pa.array(here)))
        start = end
    places = pa.concat_tables(found)
    for name in ("file", "line"):
        bad = bad.append_column(QUARANTINE.field(name), places[name].cast(QUARANTINE.field(name).type))
    return bad


def _count(valid: Sequence[Path]) -> dict[str, int]:
    """What the valid rows hold; DuckDB counts."""
    names = ("rows_valid", "num_clicks", "num_users", "num_items")
    found = [(0, 0, 0, 0)]
    if valid:
        with connect() as connection:
            found = connection.sql(f"""
                SELECT count(*), count(*) FILTER (label >= {CLICKED}), count(DISTINCT user_id), count(DISTINCT item_id)
                FROM read_parquet({[str(path) for path in valid]})
            """).fetchall()
    told = dict(zip(names, found[0], strict=True))
    return told | {"num_unclicked": told["rows_valid"] - told["num_clicks"]}


def write(table: pa.Table, schema: pa.Schema, path: Path) -> None:
    """Rows in their order."""
    pq.write_table(table.combine_chunks().cast(schema), path, compression="zstd", row_group_size=ROW_GROUP)
