"""A cache of Parquet files, keyed by the content of their inputs: .cache/<stage>/<source>/<key>/. Entries are atomic.

A key is a hash of everything the files depend on. Files are copied out, never linked, so that writing to a published
output (or DVC protecting it) does not change the cache.
"""

import errno
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from contracts.files import hash_file, locked
from contracts.known_hashes import hash_of, note_hash
from contracts.publish import room_for, write_json

ENTRY = "entry.json"
KEPT = ".kept.json"
"""The keys that the last run which was not refused left."""
LOCK = ".lock"
NOTE = "note.json"
MAKING = ".making-"
SCRATCH = ".scratch-"


def key_of(*parts: object) -> str:
    """A cache key: the hash of these parts as JSON."""
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def file_name(table: str) -> str:
    """The file name of a table."""
    return table if "." in table else f"{table}.parquet"


def rename_first(made: Path, target: Path) -> bool:
    """Give a folder its name, atomically; if another attempt at the same work came first, that one stays.

    Returns whether this one is now there.
    """
    try:
        os.rename(made, target)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        return False
    return True


class PartitionCache:
    """Entries by key. An entry is a folder of <table>.parquet files and entry.json with their rows and hashes.

    A table whose name has a suffix, such as rows.arrow, is stored under that file name.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._used: set[str] = set()

    @classmethod
    @contextmanager
    def open(cls, folder: Path) -> Iterator["PartitionCache"]:
        """Open the cache of a folder. One process holds it at a time; others wait. Tasks that it hands out (features/
        engine) put entries beside it, by `PartitionCache(folder)`.

        Where the block raises, what it used and what the last good run left is kept, and no more: a log that is mended
        and refused time and again does not fill the disk.
        """
        with locked(folder / LOCK):
            for left in folder.glob(f"{MAKING}*"):
                shutil.rmtree(left, ignore_errors=True)
            cache = cls(folder)
            try:
                with room_for(folder):
                    yield cache
            except BaseException:
                cache._drop_others({*cache._used, *cache._kept()})
                raise

    @contextmanager
    def scratch(self) -> Iterator[Path]:
        """A folder for what lives as long as the block, on the same disk; what a killed run left there is removed."""
        for left in self._folder.glob(f"{SCRATCH}*"):
            shutil.rmtree(left, ignore_errors=True)
        with tempfile.TemporaryDirectory(prefix=SCRATCH, dir=self._folder) as folder:
            yield Path(folder)

    def holds(self, key: str) -> bool:
        """Whether the entry exists and all its files still have their stored hashes: of files changed since they were
        last read, all are read."""
        try:
            held = self._entry(key)
            is_sound = all(hash_of(self.file(key, table)) == entry["sha256"] for table, entry in held.items())
            self._used |= {key} if is_sound else set()
            return is_sound
        except (OSError, ValueError, KeyError, TypeError, AttributeError):  # missing or damaged: it is rebuilt
            return False

    def file(self, key: str, table: str) -> Path:
        """The path of one table of an entry. Read only."""
        return self._folder / key / file_name(table)

    def copy_out(self, key: str, table: str, target: Path) -> None:
        """Copy one table of an entry, whose hash is then that of the copy without reading it."""
        shutil.copyfile(self.file(key, table), target)
        note_hash(target, self._entry(key)[table]["sha256"])

    def num_rows(self, key: str) -> dict[str, int]:
        """Rows of each table of an entry."""
        return {table: held["num_rows"] for table, held in self._entry(key).items()}

    @property
    def folder(self) -> Path:
        """Where its entries lie."""
        return self._folder

    @contextmanager
    def making(self) -> Iterator[Path]:
        """An empty folder of its own on the same disk in which to build entries."""
        with tempfile.TemporaryDirectory(prefix=MAKING, dir=self._folder, ignore_cleanup_errors=True) as folder:
            yield Path(folder)

    def put(self, key: str, made: Path, num_rows: Mapping[str, int]) -> None:
        """Add a folder with one file for each table as an entry, atomically. num_rows: of each table.

        A sound entry stays: the same key has the same bytes, and someone may be reading it.
        """
        hashes = {table: hash_file(made / file_name(table)) for table in num_rows}
        for table, digest in hashes.items():
            note_hash(made / file_name(table), digest)
        told = {table: {"num_rows": num, "sha256": hashes[table]} for table, num in num_rows.items()}
        (made / ENTRY).write_text(json.dumps(told, sort_keys=True), encoding="utf-8")  # no fsync: holds() checks it all
        if not rename_first(made, self._folder / key) and not self.holds(key):  # a damaged one is in the way
            os.rename(self._folder / key, made.with_name(f"damaged-{key}"))
            rename_first(made, self._folder / key)
        self._used.add(key)

    def drop(self, key: str) -> None:
        """Remove an entry that no later run needs."""
        shutil.rmtree(self._folder / key, ignore_errors=True)
        self._used.discard(key)

    def noted(self, key: str) -> dict[str, Any] | None:
        """The JSON object that `note` put under a key; None if there is none, or it is damaged."""
        return json.loads(self.file(key, NOTE).read_text(encoding="utf-8")) if self.holds(key) else None

    def note(self, key: str, value: Mapping[str, Any]) -> None:
        """Put an entry that is one JSON object; an earlier one under the same key is replaced."""
        with self.making() as making:
            (making / key).mkdir()
            write_json(making / key / NOTE, value)
            shutil.rmtree(self._folder / key, ignore_errors=True)
            self.put(key, making / key, {NOTE: 0})

    def came(self, keys: Iterable[str], expected: Iterable[str]) -> None:
        """Wait for the entries that tasks put. If one fails, those of the expected that others had put are kept, also
        where the engine returns nothing before all have ended."""
        self._used |= set(expected)
        for key in keys:
            self._used.add(key)

    def keep_only(self, keys: Collection[str]) -> None:
        """Drop every other entry, so that the cache is as large as the newest outputs."""
        self._drop_others(keys)
        (self._folder / KEPT).write_text(json.dumps(sorted(keys)), encoding="utf-8")

    def _drop_others(self, keys: Collection[str]) -> None:
        for path in self._folder.iterdir():
            if path.is_dir() and path.name not in keys and not path.name.startswith(SCRATCH):
                shutil.rmtree(path, ignore_errors=True)

    def _kept(self) -> set[str]:
        try:
            return set(json.loads((self._folder / KEPT).read_text(encoding="utf-8")))
        except (OSError, ValueError):
            return {path.name for path in self._folder.iterdir()}  # not written yet: everything stays

    def _entry(self, key: str) -> dict[str, dict]:
        return json.loads((self._folder / key / ENTRY).read_text(encoding="utf-8"))
