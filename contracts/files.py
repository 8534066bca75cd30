"""Files that are written whole and durably or not at all; hashes of files; locks between processes.

Standard library only: every package may use it.
"""

import errno
import fcntl
import hashlib
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Error numbers of a failed write: full disk, quota, file size limit."""
SQLITE_FULL = 13
NUMPY_WROTE_LESS = r"\d+ requested and \d+ written"
"""What numpy says, without an error number, when a file takes only some of an array."""


def is_full(error: Exception) -> bool:
    """Whether an error of any library was caused by a full disk."""
    if getattr(error, "errno", None) in FULL or getattr(error, "sqlite_errorcode", None) == SQLITE_FULL:
        return True
    said = str(error)
    return any(os.strerror(each) in said for each in FULL) or re.fullmatch(NUMPY_WROTE_LESS, said) is not None


def hash_file(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal digits."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def beside(path: Path) -> Path:
    """A hidden path beside `path` that nobody else uses: not by process id, which machines and containers have in
    common."""
    return path.with_name(f".{path.name}.{uuid4().hex}")


@contextmanager
def written(path: Path) -> Iterator[Path]:
    """A temporary path beside `path`. When the block ends, what was written there replaces `path`, durably.

    If the block raises, `path` is unchanged and the temporary file is removed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = beside(path)
    try:
        yield temporary
        with temporary.open("rb") as handle:
            os.fsync(handle.fileno())
        os.replace(temporary, path)
        sync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a whole text file (UTF-8), durably."""
    with written(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def sync_folder(folder: Path) -> None:
    """Sync a folder's entries to disk: without it a rename may be lost in a crash."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def locked(path: Path, how: int = fcntl.LOCK_EX) -> Iterator[None]:
    """Hold a lock file, created if missing. Waits for other holders; a killed process loses its lock.

    Opened to read and to write: NFS locks no file to share that cannot be read, and none to hold alone that cannot be
    written, such as a folder (flock(2)).
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as handle:
        fcntl.flock(handle, how)
        yield
