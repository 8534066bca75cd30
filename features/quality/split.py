"""Partitions of interactions and their flaws -> valid rows by partition and quarantined rows; GX judges all of them.

Split partitions and results of Great Expectations (GX) are cached by content (.cache/validate/<log>): a partition or
batch that has not changed is neither split nor judged again. Memory holds one partition, or one batch.
"""
# pyright: reportAttributeAccessIssue=false

import hashlib
import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from contracts.known_hashes import hash_of, note_hash
from contracts.publish import write_json
from contracts.schema import INTERACTIONS, QUARANTINE
from features.engine.engine import Engine
from features.quality.code import code
from features.quality.expectations import Judgement, at_hand
from features.quality.flaws import Flaws
from features.quality.suite import COLUMNS, Expected
from features.tables.cache import PartitionCache, key_of
from features.terms.params import ValidateParams
from features.terms.rules import Rule

BATCH_ROWS = 250_000
"""Great Expectations judges whole partitions together until they have this many rows."""
ROW_GROUP = 1 << 18
FOUND = "found.json"


@dataclass(frozen=True)
class Judging:
    """The settings by which every batch is judged."""

    cache: Path
    provenance: Path  # the folder with file and line of each row, one Parquet file per partition
    rules: Sequence[Rule]
    validate: ValidateParams
    suite: Sequence[Expected]


@dataclass(frozen=True)
class Batch:
    """Neighbouring partitions that Great Expectations judges together, or one partition to split."""

    key: str
    places: Sequence[int]
    files: Sequence[Path]
    flaws: Flaws  # of these partitions

    @property
    def name(self) -> str:
        """The names of its first and last partition."""
        return f"{self.files[0].stem}_to_{self.files[-1].stem}"


@dataclass(frozen=True)
class Judged:
    """A log's partitions, their flaws, and the judgement."""

    files: Sequence[Path]
    flaws: Flaws
    judgement: Judgement
    judging: Judging
    basis: str  # a hash of the rules and the suite
    cache: PartitionCache
    engine: Engine

    def split(self, staging: Path) -> tuple[dict[str, Any], set[str]]:
        """Write valid rows by partition and the quarantine; returns the counts, and the keys of the cache."""
        hashes, num_rows = self._read()
        keys = self._judge(hashes, num_rows)
        split = self._split(hashes)
        held_back, rows_in, partitions = [QUARANTINE.empty_table()], 0, {}
        for place, file in enumerate(self.files):
            target = staging / "validated_interactions" / file.name
            bad, partitions[file.stem] = self._take(split.get(place), file, num_rows[place], target)
            if bad is not None:
                held_back.append(bad)
            rows_in += num_rows[place]
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
        return counts, {*keys, *split.values()}

    def _read(self) -> tuple[list[str], list[int]]:
        """(hashes, numbers of rows) of the files."""
        return [hash_of(file) for file in self.files], [pq.read_metadata(file).num_rows for file in self.files]

    def _batch(self, key: str, places: Sequence[int]) -> Batch:
        files = [self.files[place] for place in places]
        return Batch(key, places, files, self.flaws.only(places[0], places[-1]))

    def _judge(self, hashes: Sequence[str], num_rows: Sequence[int]) -> set[str]:
        """Let Great Expectations judge the batches that the cache lacks, and count all results; returns their keys."""
        batches = []
        for places in _batches(num_rows):
            names, of = [self.files[place].stem for place in places], [hashes[place] for place in places]
            batches.append(self._batch(key_of(code(), self.basis, names, of, self._digest(places)), places))
        missing = [batch for batch in batches if not self.cache.holds(batch.key)]
        made = self.engine.map(partial(judge_batch, self.judging), missing, "judging batches")
        self.cache.came(made, (batch.key for batch in missing))
        for batch in batches:
            self.judgement.recall(json.loads(self.cache.file(batch.key, FOUND).read_text(encoding="utf-8")))
        return {batch.key for batch in batches}

    def _split(self, hashes: Sequence[str]) -> dict[int, str]:
        """Split the partitions that lose rows, in the cache; returns place -> key."""
        split = {
            place: self._batch(key_of(code(), hashes[place], self._digest([place]), self._places(place)), [place])
            for place in range(len(self.files))
            if _leaves(self.flaws, place).any()
        }
        missing = [each for each in split.values() if not self.cache.holds(each.key)]
        made = self.engine.map(partial(split_partition, self.judging), missing, "splitting")
        self.cache.came(made, (each.key for each in missing))
        return {place: each.key for place, each in split.items()}

    def _take(self, key: str | None, file: Path, num_rows: int, target: Path) -> tuple[pa.Table | None, int]:
        """Copy one partition's valid rows; returns its bad rows with their reasons, and the number of valid rows."""
        if key is None:
            shutil.copyfile(file, target)  # writing it again would give the same bytes
            note_hash(target, hash_of(file))
            return None, num_rows
        num_valid = self.cache.num_rows(key)["valid"]
        if num_valid:
            self.cache.copy_out(key, "valid", target)
        return pq.read_table(self.cache.file(key, "bad")), num_valid

    def _places(self, place: int) -> str:
        return hash_of(self.judging.provenance / self.files[place].name)

    def _digest(self, places: Sequence[int]) -> str:
        """A hash of the flaws of these partitions."""
        digest = hashlib.sha256()
        for place in places:
            here = self.flaws.of(place)
            for column in (self.flaws.row, self.flaws.repetition, self.flaws.num_users):
                digest.update(np.ascontiguousarray(column[here], np.int64).tobytes())
            digest.update(json.dumps(self.flaws.reason[here].tolist()).encode())
        return digest.hexdigest()


def judge_batch(judging: Judging, batch: Batch) -> str:
    """Let Great Expectations judge a batch and put the result into the cache; returns the key."""
    wanted = [name for name in ("event_id", *COLUMNS) if name in INTERACTIONS.names]
    both = zip(batch.files, batch.places, strict=True)
    tables = [batch.flaws.judged(pq.read_table(file, columns=wanted), place) for file, place in both]
    with at_hand(judging.rules, judging.validate, judging.suite) as judge:
        found = judge.find(pa.concat_tables(tables), batch.name)
    cache = PartitionCache(judging.cache)
    with cache.making() as making:
        (making / batch.key).mkdir()
        write_json(making / batch.key / FOUND, found)
        cache.put(batch.key, making / batch.key, {FOUND: 0})
    return batch.key


def split_partition(judging: Judging, batch: Batch) -> str:
    """Split one partition into valid and bad rows and put both into the cache; returns the key."""
    (file,), (place,), flaws = batch.files, batch.places, batch.flaws
    here = flaws.of(place)
    is_bad = _is_bad(flaws, here)
    table = pq.read_table(file, schema=INTERACTIONS)
    keep = np.ones(len(table), dtype=bool)
    keep[flaws.row[here][_leaves(flaws, place)]] = False
    reason = pa.array(flaws.reason[here][is_bad], pa.string())
    rows = flaws.row[here][is_bad]
    bad = table.take(pa.array(rows)).append_column(QUARANTINE.field("reason"), reason)
    bad = _with_places(bad, judging.provenance / file.name, len(table), rows)
    valid, entries = table.filter(pa.array(keep)), PartitionCache(judging.cache)
    with entries.making() as making:
        folder = making / batch.key
        folder.mkdir()
        write(valid, INTERACTIONS, folder / "valid.parquet")
        pq.write_table(bad, folder / "bad.parquet")
        entries.put(batch.key, folder, {"valid": len(valid), "bad": len(bad)})
    return batch.key


def _batches(num_rows: Sequence[int]) -> Iterator[list[int]]:
    waiting, num_waiting = [], 0
    for place, num in enumerate(num_rows):
        waiting.append(place)
        num_waiting += num
        if num_waiting >= BATCH_ROWS or place == len(num_rows) - 1:
            yield waiting
            waiting, num_waiting = [], 0


def _leaves(flaws: Flaws, place: int) -> npt.NDArray[np.bool_]:
    """Which flaws of a partition remove their row from the valid ones."""
    here = flaws.of(place)
    return _is_bad(flaws, here) | (flaws.repetition[here] > 0)


def _is_bad(flaws: Flaws, here: slice) -> npt.NDArray[np.bool_]:
    return np.array([text is not None for text in flaws.reason[here]], dtype=bool)


def _with_places(bad: pa.Table, provenance: Path, num_rows: int, rows: npt.NDArray[np.int64]) -> pa.Table:
    """The bad rows with their file and line. rows: their numbers in the partition. provenance: the partition's file."""
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


def write(table: pa.Table, schema: pa.Schema, path: Path) -> None:
    """Write rows in their order, compressed."""
    pq.write_table(table.combine_chunks().cast(schema), path, compression="zstd", row_group_size=ROW_GROUP)
