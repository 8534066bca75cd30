"""live/<source>/forgotten.txt: the list of forgotten users, as hashes, so that the list itself names nobody.

The first line is random, the others are in the order of the requests; live/known.json identifies the list by the first.
Anyone who can guess an id can check whether it is on the list, so the file is tracked neither by git nor by DVC.
"""
# pyright: reportAttributeAccessIssue=false

import contextlib
import csv
import hashlib
import io
import itertools
import json
import re
import secrets
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from contracts.errors import InputError
from contracts.files import write_text
from features.sealed.files import writing
from features.sealed.known_logs import check_list, note

NAME = "forgotten.txt"
FIELD = re.compile(r"""[^\s,;|"'{}\[\]:]+""")
SEPARATORS = (",", ";", "\t", "|", "::", "\x01")
DIGEST = re.compile(r"[0-9a-f]{64}")
HEAD = "# "
"""Prefix of the first line, which lists of older versions lack."""

Forgotten = frozenset[str]
"""SHA-256 of each user_id, in hexadecimal digits."""


def hash_of(user_id: str) -> str:
    """The entry of a user in the list."""
    return hashlib.sha256(user_id.encode()).hexdigest()


def read_forgotten(folder: Path) -> Forgotten:
    """Read the list of live/<source>; empty if nobody was forgotten. Raises InputError for any other line."""
    return frozenset(line for line in list_lines(folder) if not line.startswith(HEAD))


def list_lines(folder: Path) -> list[str]:
    """Every line of the list, the first one included."""
    path = folder / NAME
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except FileNotFoundError:
        return []
    except (OSError, UnicodeError) as error:
        raise InputError(f"{path} cannot be read: {error}. Restore it from a copy before any other run.") from error
    for number, line in enumerate(lines, start=1):
        if line and not DIGEST.fullmatch(line) and not (number == 1 and line.startswith(HEAD)):
            raise InputError(
                f"{path} line {number} is {line[:80]!r}, not the SHA-256 of a user_id (64 hexadecimal digits). "
                "Write users with `make forget USER=...`; remove that line or restore the file from a copy."
            )
    return [line for line in lines if line]


def add_forgotten(folder: Path, user_ids: Iterable[str], log: str | None = None) -> int:
    """Append users to the list, each once, atomically and durably. Returns how many were not on it before.

    log: the identity of the users' log. Raises InputError if the list does not match live/known.json.
    """
    with writing(folder):
        lines = list_lines(folder)
        check_list(folder, lines)
        new = sorted({hash_of(user_id) for user_id in user_ids} - set(lines))
        if wanted := _with_head(lines) + new if new or lines else []:
            if wanted != lines:
                _write(folder, wanted)
            note(folder, listed=wanted, log=log)  # a killed call may not have recorded the list
        return len(new)


def _with_head(lines: list[str]) -> list[str]:
    return lines if lines and lines[0].startswith(HEAD) else [HEAD + secrets.token_hex(16), *lines]


def _write(folder: Path, lines: list[str]) -> None:
    write_text(folder / NAME, "".join(f"{line}\n" for line in lines))


def are_forgotten(user_ids: pa.ChunkedArray, forgotten: Forgotten) -> npt.NDArray[np.bool_]:
    """[rows] whether each user is on the list. Each distinct user is hashed once."""
    if not forgotten:
        return np.zeros(len(user_ids), bool)
    distinct = pc.drop_null(pc.unique(user_ids))
    listed = pa.array([user_id for user_id in distinct.to_pylist() if hash_of(user_id) in forgotten], pa.string())
    return pc.is_in(user_ids, value_set=listed).to_numpy(zero_copy_only=False).astype(bool)


def fields_of(text: str) -> set[str]:
    """Everything that may be a user_id in the text of a row that could not be parsed: fields, and words in them."""
    plain = {cell for separator in SEPARATORS for cell in text.split(separator)}
    found = plain | {cell.strip().strip('"') for cell in plain} | set(FIELD.findall(text))
    if '"' in text:
        found |= _in_json(text) or _in_quotes(text)
    return found | {
        re.sub(r"\.0+$", "", each) for each in found
    }  # ingest writes floats that are whole numbers without their decimals


def _in_json(text: str) -> set[str]:
    """The values of a row of Parquet, which ingest writes as JSON."""
    try:
        row = json.loads(text)
    except ValueError:
        return set()
    return {str(value) for value in row.values()} if isinstance(row, dict) else set()


def _in_quotes(text: str) -> set[str]:
    """Fields with their quotes removed: a quoted id may contain spaces, quotes and separators."""
    found = set()
    one = text.replace("::", "\x1f")
    for separator, escape in itertools.product(",;\t|\x01\x1f", (None, "\\")):
        rows = csv.reader(io.StringIO(one, newline=""), delimiter=separator, escapechar=escape)
        with contextlib.suppress(csv.Error):  # a carriage return in a field; the fields before it are used
            for row in rows:
                found.update(cell.replace("\x1f", "::") for cell in row)
    return found
