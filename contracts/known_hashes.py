"""Hashes of files that are remembered, so that a file that has not changed is not read again only to be hashed.

A file is known by its device, inode, size and time of change, as in git's index: whoever writes to it, or puts another
in its place, changes one of them, and a rename none. A hash that was taken within YOUNG_NS of the file's last change is
not remembered, as a later write may carry the same time. Outside a `remembering` block every file is read.

Standard library only: every package may use it.
"""

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path

from contracts.files import hash_file, write_text

YOUNG_NS = 2 * 10**9
"""The coarsest file time: within it, two writes may carry the same time."""
DAY_S = 86_400
KEPT_DAYS = 30
"""Hashes that nobody asked for in so many days are forgotten."""

_opened: ContextVar["KnownHashes | None"] = ContextVar("opened", default=None)


class KnownHashes:
    """Hashes by what a file is known by, with the day on which each was last asked for."""

    def __init__(self, kept: Path) -> None:
        """kept: a JSON file; one that is damaged counts as none."""
        self._kept, self._today = kept, int(time.time()) // DAY_S
        self._before = _read(kept)
        self._now: dict[str, tuple[str, int]] = {}

    def of(self, file: Path) -> str:
        """SHA-256 of the file's bytes. Raises OSError if it cannot be read."""
        name = _name(seen := file.stat())
        known = self._now.get(name) or self._before.get(name)
        if known is not None:
            self._now[name] = (known[0], self._today)
            return known[0]
        began = time.time_ns()
        digest = hash_file(file)
        if began - seen.st_mtime_ns >= YOUNG_NS and _name(file.stat()) == name:
            self._now[name] = (digest, self._today)
        return digest

    def note(self, file: Path, digest: str) -> None:
        """Remember the hash of a file that we have just written, where nobody else writes."""
        self._now[_name(file.stat())] = (digest, self._today)

    def write(self) -> None:
        """Keep them for the next process, beside what others have kept meanwhile."""
        held = _read(self._kept) | self._now
        wanted = {name: each for name, each in held.items() if each[1] > self._today - KEPT_DAYS}
        if wanted != self._before:
            with suppress(OSError):  # no room: files are read again, and whoever needs the room says so
                write_text(self._kept, json.dumps(wanted, separators=(",", ":")))


@contextmanager
def remembering(root: Path = Path()) -> Iterator[None]:
    """Within the block `hash_of` knows the files that this or an earlier process has read. root: of the repository.

    They are kept in .cache/, also where the block raises.
    """
    if _opened.get() is not None:
        yield
        return
    known = KnownHashes(root / ".cache" / "hashes.json")
    token = _opened.set(known)
    try:
        yield
    finally:
        _opened.reset(token)
        known.write()


def hash_of(file: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal digits: of a file that is known without reading it."""
    known = _opened.get()
    return hash_file(file) if known is None else known.of(file)


def note_hash(file: Path, digest: str) -> None:
    """Remember the hash of a file that we have just written, where nobody else writes."""
    if (known := _opened.get()) is not None:
        known.note(file, digest)


def _name(seen: os.stat_result) -> str:
    return f"{seen.st_dev}:{seen.st_ino}:{seen.st_size}:{seen.st_mtime_ns}"


def _read(kept: Path) -> dict[str, tuple[str, int]]:
    try:
        return {str(name): (str(digest), int(day)) for name, (digest, day) in json.loads(kept.read_bytes()).items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}
