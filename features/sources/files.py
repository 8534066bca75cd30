"""source.path -> the data files below it, in order, with names relative to it."""

import bz2
import gzip
import logging
import lzma
import os
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, NamedTuple, cast

import pyarrow as pa

from contracts.errors import InputError

log = logging.getLogger("leitmotif")

AUTO, PARQUET, TEXT = "auto", "parquet", "text"
KINDS = {".csv": TEXT, ".tsv": TEXT, ".parquet": PARQUET}
PERHAPS = (".inter", ".dat", ".txt", ".tab", ".psv", ".log", ".data")
"""Suffixes that delimited text shares with other kinds of text."""
DELIMITERS = {"csv": ",", "tsv": "\t", "semicolon": ";", "pipe": "|", "double_colon": "::"}
"""source.format -> the delimiter of fields."""
PACKED = (".gz", ".zst", ".bz2", ".xz")
PACKERS = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd", b"BZh": "bz2", b"\xfd7zXZ": "xz", b"PK\x03\x04": "zip"}
PACKERS |= {b"\x50\x2a\x4d\x18": "zstd"}
"""The first bytes of compressed files; the last of zstd files that pzstd writes."""
MAX_NAMED = 10
READ_ERRORS = (OSError, EOFError, UnicodeError, zlib.error, lzma.LZMAError, pa.ArrowException)
"""What readers raise for a file of another format, a truncated file or one that cannot be opened."""
ADVICE = 'make set ARGS="source.format=csv" (or tsv, semicolon, pipe, double_colon, parquet)'


class DataFile(NamedTuple):
    """One file of a log."""

    name: str  # relative to source.path
    path: Path
    kind: str  # PARQUET or TEXT
    packer: str | None = None  # gzip, zstd, bz2, xz
    delimiter: str | None = None  # by source.format; None: detected from the header


class FoundFiles(NamedTuple):
    """The files below a path."""

    files: list[DataFile]
    perhaps: list[DataFile]  # texts in a folder that are data if their header names the columns
    others: list[str]  # names of files that are not data


def find_files(path: str | None, format: str = AUTO) -> FoundFiles:
    """The file, or all data files of the folder and its subfolders, except names that start with "." or "_".

    format: source.format; any but auto means that every file is data in this format. Raises InputError if the path does
    not exist, a single file is not data, or a link hides data.
    """
    if not path:
        raise InputError("source.path is not set. Name a file or folder: make run SOURCE=... DATA=<path>.")
    root = Path(path).expanduser()
    if not root.exists():
        raise InputError(f"source.path: {path} does not exist (seen from {Path.cwd()}). Correct the path.")
    if root.is_file():
        return FoundFiles([describe(root, root.name, format)], [], [])
    seen = [(inside, inside.relative_to(root).as_posix()) for inside in _below(root, format)]
    files = [describe(p, name, format) for p, name in seen if format != AUTO or _suffix(p) in KINDS]
    perhaps = [describe(p, name) for p, name in seen if format == AUTO and _suffix(p) in PERHAPS]
    others = [name for p, name in seen if format == AUTO and _suffix(p) not in (*KINDS, *PERHAPS)]
    return FoundFiles(files, perhaps, others)


def describe(path: Path, name: str, format: str = AUTO) -> DataFile:
    """The format of a file, by its first bytes and suffix. Raises InputError if neither tells, or it is an archive."""
    packer = _packer(path, name)
    known = KINDS.get(_suffix(path), TEXT if _suffix(path) in PERHAPS else None)
    if format == AUTO and known is not None and _begins(path, name, b"PAR1"):
        known = PARQUET
    kind = known if format == AUTO else PARQUET if format == PARQUET else TEXT
    if kind is None:
        raise InputError(
            f"source.path: {name} is neither .csv, .tsv nor .parquet (plain or .gz). Convert it, or state its format: "
            f"{ADVICE}."
        )
    return DataFile(name, path, kind, packer, DELIMITERS.get(format))


def open_bytes(file: DataFile) -> BinaryIO:
    """The file's decompressed content. Raises InputError if it cannot be opened."""
    openers: dict[str, Callable[[Path], object]] = {
        "gzip": gzip.open,
        "bz2": bz2.open,
        "xz": lzma.open,
        "zstd": lambda path: pa.input_stream(str(path), compression="zstd"),
    }
    try:
        return cast(BinaryIO, openers[file.packer](file.path) if file.packer else file.path.open("rb"))
    except OSError as error:
        raise unreadable(file, error) from error


def unreadable(file: DataFile, error: Exception) -> InputError:
    """The InputError for any error of a file's reader."""
    reason = " ".join(str(error).split()) or type(error).__name__
    return InputError(f"source.path: {file.name} cannot be read: {reason}. Export the file again, or move it away.")


def named(names: list[str]) -> str:
    """The first MAX_NAMED names, and an ellipsis if there are more."""
    return ", ".join(names[:MAX_NAMED]) + (", ..." if len(names) > MAX_NAMED else "")


def _below(root: Path, format: str) -> list[Path]:
    """Files of a folder and its subfolders, in order. A link to a folder of data is refused: DVC does not follow it."""
    inside = []
    for folder, folders, files in os.walk(root):
        for name in [*folders, *files]:
            path = Path(folder) / name
            if any(part[0] in "._" for part in path.relative_to(root).parts):
                continue
            if path.is_symlink() and not path.exists():
                reason = "which does not exist. Restore its target, remove the link"
                _refuse_or_warn(path, root, _is_wanted(path, format), reason)
            elif path.is_symlink() and path.is_dir():
                wanted = any(_is_wanted(each, format) for each in path.rglob("*") if each.is_file())
                reason = "a folder. DVC does not follow such links and would miss changes in it: move its files here"
                _refuse_or_warn(path, root, wanted, reason)
            elif path.is_file():
                inside.append(path)
    return sorted(inside)


def _refuse_or_warn(path: Path, root: Path, wanted: bool, reason: str) -> None:
    name, target = path.relative_to(root).as_posix(), os.readlink(path)
    if wanted:
        raise InputError(f"source.path: {name} is a link to {target}, {reason}, or set source.path to another folder.")
    log.warning("Ignored %s, a link to %s", name, target)


def _is_wanted(path: Path, format: str) -> bool:
    return format != AUTO or _suffix(path) in (*KINDS, *PERHAPS)


def _suffix(path: Path) -> str:
    """The suffix before any of PACKED, in lower case."""
    name = Path(path.name.lower())
    return Path(name.stem).suffix if name.suffix in PACKED else name.suffix


def _packer(path: Path, name: str) -> str | None:
    packer = next((packer for magic, packer in PACKERS.items() if _begins(path, name, magic)), None)
    if packer == "zip":
        raise InputError(f"source.path: {name} is a zip archive. Unpack it, and name the folder.")
    return packer


def _begins(path: Path, name: str, magic: bytes) -> bool:
    try:
        with path.open("rb") as handle:
            return handle.read(len(magic)) == magic
    except OSError as error:
        raise unreadable(DataFile(name, path, TEXT), error) from error
