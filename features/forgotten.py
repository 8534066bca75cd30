"""live/<source>/forgotten.txt: who has asked to be forgotten, as hashes, so that the list itself names nobody."""
# pyright: reportAttributeAccessIssue=false

import hashlib
import os
import re
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from contracts.errors import InputError
from features.live_files import sync_folder, writing

NAME = "forgotten.txt"
FIELD = re.compile(r"""[^\s,;|"'{}\[\]:]+""")
DIGEST = re.compile(r"[0-9a-f]{64}")

Forgotten = frozenset[str]
"""SHA-256 of each user_id, in hexadecimal digits."""


def hash_of(user_id: str) -> str:
    """What stands for a user in the list."""
    return hashlib.sha256(user_id.encode()).hexdigest()


def read_forgotten(folder: Path) -> Forgotten:
    """The list of live/<source>; empty where nobody was forgotten. Raises InputError for a line that is no hash."""
    path = folder / NAME
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except FileNotFoundError:
        return frozenset()
    except (OSError, UnicodeError) as error:
        raise InputError(f"{path} cannot be read: {error}. Bring it back from a copy before any other run.") from error
    for number, line in enumerate(lines, start=1):
        if line and not DIGEST.fullmatch(line):
            raise InputError(
                f"{path} line {number} is {line[:80]!r}, not the SHA-256 of a user_id (64 hexadecimal digits). "
                "Write users with `make forget USER=...`; remove that line or bring the file back from a copy."
            )
    return frozenset(filter(None, lines))


def add_forgotten(folder: Path, user_ids: Iterable[str]) -> int:
    """Put users on the list, sorted, each once, in one step and on disk. Returns how many were not on it before."""
    with writing(folder):
        known = read_forgotten(folder)
        wanted = known | {hash_of(user_id) for user_id in user_ids}
        if wanted == known:
            return 0
        folder.mkdir(parents=True, exist_ok=True)
        temporary = folder / f".{NAME}.{os.getpid()}"
        with temporary.open("w", encoding="utf-8") as handle:
            handle.write("".join(f"{digest}\n" for digest in sorted(wanted)))
            handle.flush()
            os.fsync(handle.fileno())
        os.replace(temporary, folder / NAME)
        sync_folder(folder)
        return len(wanted) - len(known)


def are_forgotten(user_ids: pa.ChunkedArray, forgotten: Forgotten) -> npt.NDArray[np.bool_]:
    """[rows] whether each user is on the list; each distinct user is hashed once, none where the list is empty."""
    if not forgotten:
        return np.zeros(len(user_ids), bool)
    distinct = pc.drop_null(pc.unique(user_ids))
    listed = pa.array([user_id for user_id in distinct.to_pylist() if hash_of(user_id) in forgotten], pa.string())
    return pc.is_in(user_ids, value_set=listed).to_numpy(zero_copy_only=False).astype(bool)


def fields_of(text: str) -> set[str]:
    """All that may be a user_id in the text of a row that could not be parsed: fields, and words within them."""
    cells = {cell.strip().strip('"') for separator in ",;\t|" for cell in text.split(separator)}
    found = cells | set(FIELD.findall(text))
    return found | {re.sub(r"\.0+$", "", each) for each in found}  # as ingest writes whole numbers that were floats
