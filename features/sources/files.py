"""A path given by a person -> the data files under it, in order, with names that do not depend on where they lie."""

import gzip
import logging
import zlib
from pathlib import Path
from typing import BinaryIO, NamedTuple, cast

import pyarrow as pa

from contracts.errors import InputError

log = logging.getLogger("leitmotif")

DELIMITED = {".csv", ".tsv"}
PARQUET = {".parquet"}
KINDS = DELIMITED | PARQUET
MAX_NAMED = 10
READ_ERRORS = (OSError, EOFError, UnicodeError, zlib.error, pa.ArrowException)
"""What readers raise for a file that is not what its name says, ends early or may not be opened."""


class DataFile(NamedTuple):
    """One file of a log."""

    name: str  # relative to what the person gave
    path: Path
    kind: str  # its suffix without .gz
    gzipped: bool


def find_files(path: str | None) -> list[DataFile]:
    """The file, or every data file of the folder and below but hidden ones and those whose name starts with _.

    Files of other kinds in a folder are left out, and logged by name. Raises InputError where no file is left, or the
    one given is of another kind.
    """
    if not path:
        raise InputError("source.path is not set. Name a file or folder: make run SOURCE=... DATA=<path>.")
    root = Path(path).expanduser()
    if not root.exists():
        raise InputError(f"source.path: {path} does not exist (seen from {Path.cwd()}). Correct the path.")
    if root.is_file():
        return [describe(root, root.name)]
    inside = sorted(p for p in root.rglob("*") if p.is_file())
    relative = [(p, p.relative_to(root)) for p in inside]
    seen = [(p, name.as_posix()) for p, name in relative if not any(part[0] in "._" for part in name.parts)]
    files = [describe(p, name) for p, name in seen if _kind(p)[0] in KINDS]
    others = [name for p, name in seen if _kind(p)[0] not in KINDS]
    named = ", ".join(others[:MAX_NAMED]) + (", ..." if len(others) > MAX_NAMED else "")
    if not files:
        there = f" (but {len(others):,} of other kinds: {named})" if others else ""
        raise InputError(f"source.path: the folder {path} holds no data file{there}. Put .csv or .parquet files in it.")
    if others:
        log.warning("left out %s files that are neither .csv, .tsv nor .parquet: %s", f"{len(others):,}", named)
    return files


def describe(path: Path, name: str) -> DataFile:
    """What a file is, by its suffix. Raises InputError for any other."""
    kind, gzipped = _kind(path)
    if kind not in KINDS:
        raise InputError(
            f"source.path: {name} is neither .csv, .tsv nor .parquet (plain or .gz). Convert it, or move it away."
        )
    return DataFile(name, path, kind, gzipped)


def _kind(path: Path) -> tuple[str, bool]:
    """The suffix without .gz, in small letters, and whether .gz was there."""
    name = Path(path.name.lower())
    gzipped = name.suffix == ".gz"
    return Path(name.stem).suffix if gzipped else name.suffix, gzipped


def open_bytes(file: DataFile) -> BinaryIO:
    """The file's content, unpacked. Raises InputError where it cannot be opened."""
    try:
        return cast(BinaryIO, gzip.open(file.path) if file.gzipped else file.path.open("rb"))
    except OSError as error:
        raise unreadable(file, error) from error


def unreadable(file: DataFile, error: Exception) -> InputError:
    """One message for whatever a file's reader had to say."""
    said = " ".join(str(error).split()) or type(error).__name__
    return InputError(f"source.path: {file.name} cannot be read: {said}. Export the file again, or move it away.")
