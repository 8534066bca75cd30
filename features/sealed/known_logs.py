"""live/known.json: what live/ must contain for each log, so that ingest refuses a copy of the repository without it.

It is tracked by git, unlike live/<id>/, so a clone or the temporary workspace of `dvc exp run --temp` or `--queue` has
it without the folder. It names nobody: for the list of forgotten users it has the number of users and a digest of that
many lines, of which the first is random. The list only grows, so an older known.json matches a newer list.
"""

import hashlib
import json
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple

from contracts.errors import InputError
from contracts.files import hash_file, locked
from contracts.known_hashes import hash_of
from contracts.publish import write_json

KNOWN = "known.json"
LIVE = "live"


class Known(NamedTuple):
    """The recorded content of live/<id>."""

    log: str | None  # the identity of the log; None: recorded by a version without identities
    files: dict[str, str]  # sealed files: name -> SHA-256 of their bytes
    forgotten: int  # number of users on the list
    digest: str | None  # of the list's first line and that many more


def known_path(folder: Path) -> Path:
    """live/<id> -> live/known.json."""
    return folder.parent / KNOWN


def shared(folder: Path) -> Path:
    """The real folder of live/<id>: for an experiment's temporary workspace, that of its repository."""
    for parent in folder.absolute().parents:
        if parent.parts[-3:] == (".dvc", "tmp", "exps"):
            return parent.parents[2] / LIVE / folder.name
    return folder


def read_known(folder: Path) -> Known:
    """The recorded content of live/<id>. Raises InputError if known.json cannot be read."""
    return _known(_read(known_path(folder)), folder)


def note(folder: Path, files: Iterable[Path] = (), listed: Sequence[str] | None = None, log: str | None = None) -> None:
    """Record what live/<id> holds now: sealed files, all lines of the list, and the identity of the log (once)."""
    if folder.parent.name != LIVE:
        return  # a folder elsewhere, which no run reads
    with _alone(folder):
        path = known_path(folder)
        content = _read(path)
        before = _known(content, folder)
        after = Known(
            before.log or log,
            before.files | {file.name: hash_of(file) for file in files},
            before.forgotten if listed is None else len(listed) - 1,
            before.digest if listed is None else digest_of(listed),
        )
        if after != before:
            write_json(path, content | {folder.name: after._asdict()})


def lacking(folder: Path, present: Iterable[Path]) -> None:
    """Raises InputError if a recorded sealed file is missing."""
    gone = sorted(read_known(folder).files.keys() - {path.name for path in present})
    if gone:
        raise InputError(
            f"{shared(folder)} lacks {', '.join(gone)}: sealed live events that {known_path(folder)} lists. "
            f"Copy live/{folder.name}/ from the clone where they were sealed (git does not track it), or remove their "
            "lines from known.json, which gives them up."
        )


def check_files(folder: Path, present: Sequence[Path]) -> None:
    """Raises InputError if the sealed files are not those that are recorded."""
    lacking(folder, present)
    known = read_known(folder).files
    other = [path.name for path in present if known.get(path.name) != hash_file(path)]
    if other:
        raise InputError(
            f"{shared(folder)}: {', '.join(other)} differs from {known_path(folder)}, by which `dvc repro` detects "
            "changes. `make absorb` records the files that are there."
        )


def check_list(folder: Path, lines: Sequence[str]) -> None:
    """Raises InputError if the list of forgotten users does not begin with the recorded one."""
    known = read_known(folder)
    if known.digest is not None and digest_of(lines[: known.forgotten + 1]) != known.digest:
        raise InputError(
            f"{shared(folder)}/forgotten.txt is not the list of {known.forgotten:,} forgotten users that "
            f"{known_path(folder)} records ({max(0, len(lines) - 1):,} are on the one there): their rows would come "
            f"back. Copy live/{folder.name}/ from the clone where `make forget` was run; git and DVC do not track it."
        )


def digest_of(lines: Sequence[str]) -> str:
    """The digest of a list's lines, including the random first one."""
    return _hash("\n".join(lines).encode())


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict) or not all(isinstance(each, dict) for each in content.values()):
            raise ValueError("not an object of objects")
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read: {error}. `git checkout {path}` restores it.") from error
    return content


def _known(content: dict[str, Any], folder: Path) -> Known:
    said = content.get(folder.name, {})
    try:
        return Known(said.get("log"), dict(said.get("files", {})), int(said.get("forgotten", 0)), said.get("digest"))
    except (TypeError, ValueError) as error:
        path = known_path(folder)
        raise InputError(f"{path}, {folder.name}: {error}. `git checkout {path}` restores it.") from error


def _alone(folder: Path) -> AbstractContextManager[None]:
    return locked(folder.parent.parent / ".state" / "locks" / "live-known.lock")


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
