"""Files that are written whole and durably or not at all; hashes of files; locks between processes.

Standard library only: every package may use it.
"""

import errno
import fcntl
import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Error numbers of a failed write: full disk, quota, file size limit."""
SQLITE_FULL = 13
NUMPY_WROTE_LESS = r"\d+ requested and \d+ written"
"""What numpy says, without an error number, when a file takes only some of an array."""
BESIDE = re.compile(r"\.(.+)\.[0-9a-f]{32}", re.DOTALL)
"""The name of a temporary file beside the file that it will be."""
FOLDER = ".d"
"""Suffix of the folder that belongs to such a file (scratch)."""
OURS = "leitmotif-"
"""Prefix in the machine's folder for temporary files."""


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


@contextmanager
def written(path: Path, lasting: bool = True) -> Iterator[Path]:
    """A temporary path beside `path`, of an empty file. When the block ends, what was written there replaces `path`.

    If the block raises, `path` is unchanged and the temporary file is removed. Its writer holds a lock on it, so that
    what a killed one left is recognised: the next writer of `path` removes it, and `make forget`.
    lasting: sync to disk; False in a folder that its owner removes as a whole.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if lasting:
        _sweep(path)
    with _beside(path) as temporary:
        yield temporary
        if lasting:
            with temporary.open("rb") as handle:
                os.fsync(handle.fileno())
        os.replace(temporary, path)
        if lasting:
            sync_folder(path.parent)


def write_text(path: Path, text: str) -> None:
    """Write a whole text file (UTF-8), durably."""
    with written(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


@contextmanager
def scratch(path: Path) -> Iterator[Path]:
    """A new folder beside `path`, which itself is not made, for as long as the block: only this user may read it.

    Its name is that of a temporary file of `written`, with a suffix; that file is there for its lock. What killed
    processes left beside the same path is removed first.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    _sweep(path)
    with _beside(path) as lock:
        folder = lock.with_name(lock.name + FOLDER)
        folder.mkdir(mode=0o700)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def in_temp(name: str) -> Path:
    """A path for `scratch` in the machine's folder for temporary files."""
    return Path(tempfile.gettempdir(), OURS + name)


def left_in_temp() -> list[Path]:
    """Every file that `scratch` has made in the machine's folder for temporary files, of any clone."""
    return sorted(Path(tempfile.gettempdir()).glob(f".{OURS}*"))


def is_temporary(path: Path) -> bool:
    """Whether this is a temporary file of `written`, or in a folder of `scratch`."""
    return any(BESIDE.fullmatch(part.removesuffix(FOLDER)) for part in path.parts)


def remove_left(path: Path) -> bool:
    """Remove a temporary file of `written`, or a folder of `scratch` by its file, that no living process is using.

    Returns whether it is removed; False also for any other file, and for one that this user may not remove.
    """
    if not BESIDE.fullmatch(path.name) or path.is_symlink() or not path.is_file():
        return False
    try:
        with path.open("r+b") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if (folder := path.with_name(path.name + FOLDER)).exists():  # before the file, whose lock tells of it
                shutil.rmtree(folder)
            path.unlink()
    except OSError:  # it is being written, has got its name meanwhile, or belongs to somebody else
        return False
    return True


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


@contextmanager
def _beside(path: Path) -> Iterator[Path]:
    """A new empty file beside `path`, locked by this process; removed at the end unless it was renamed.

    Its name has no process id, which machines and containers have in common.
    """
    while True:
        temporary = path.with_name(f".{path.name}.{uuid4().hex}")
        with temporary.open("x+b") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX)
            if temporary.exists():  # else somebody took it for left, between the two lines above, and removed it
                try:
                    yield temporary
                    return
                finally:
                    temporary.unlink(missing_ok=True)


def _sweep(path: Path) -> None:
    """Remove what killed processes left beside `path`."""
    for left in list(path.parent.iterdir()):
        if (name := BESIDE.fullmatch(left.name)) and name[1] == path.name:
            remove_left(left)
