"""live/known.json: what live/ must contain for each log, so that a copy of the repository without it is refused.

Tracked by git and read by ingest; live/<id>/ is neither. A clone, or the temporary workspace of `dvc exp run --temp` or
`--queue`, has the one without the other. It names nobody: of the list of the forgotten it says how long it is, and a
digest of that many lines, the first of which is random. The list only grows, so an older known.json fits a newer list.
"""

import hashlib
import json
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple

from contracts.errors import InputError
from contracts.files import locked
from contracts.publish import write_json

KNOWN = "known.json"
LIVE = "live"


class Known(NamedTuple):
    """What is known of live/<id>."""

    log: str | None  # the identity of the log that all this came to; None: from before there was one
    files: dict[str, str]  # sealed files: name -> SHA-256 of their bytes
    forgotten: int  # users on the list
    digest: str | None  # of the list's first line and of so many more


def known_path(folder: Path) -> Path:
    """live/<id> -> live/known.json."""
    return folder.parent / KNOWN


def shared(folder: Path) -> Path:
    """Where live/<id> is kept: in a temporary workspace of an experiment, the repository that it was made from."""
    for parent in folder.absolute().parents:
        if parent.parts[-3:] == (".dvc", "tmp", "exps"):
            return parent.parents[2] / LIVE / folder.name
    return folder


def read_known(folder: Path) -> Known:
    """What is known of live/<id>. Raises InputError for a known.json that cannot be read."""
    return _known(_read(known_path(folder)), folder)


def note(folder: Path, files: Iterable[Path] = (), listed: Sequence[str] | None = None, log: str | None = None) -> None:
    """Record what live/<id> holds now: sealed files, all lines of the list, and the identity of the log (once)."""
    if folder.parent.name != LIVE:
        return  # a folder of somewhere else, which no run reads
    with _alone(folder):
        path = known_path(folder)
        content = _read(path)
        before = _known(content, folder)
        after = Known(
            before.log or log,
            before.files | {file.name: _hash(file.read_bytes()) for file in files},
            before.forgotten if listed is None else len(listed) - 1,
            before.digest if listed is None else digest_of(listed),
        )
        if after != before:
            write_json(path, content | {folder.name: after._asdict()})


def lacking(folder: Path, present: Iterable[Path]) -> None:
    """Raises InputError where a sealed file that is known is not there."""
    gone = sorted(read_known(folder).files.keys() - {path.name for path in present})
    if gone:
        raise InputError(
            f"{shared(folder)} lacks {', '.join(gone)}: live events that were sealed, as {known_path(folder)} says. "
            f"Copy live/{folder.name}/ from the clone where they were sealed, which git does not do; or take their "
            "lines out of known.json, which gives them up."
        )


def check_files(folder: Path, present: Sequence[Path]) -> None:
    """Raises InputError where the sealed files are not those that are known."""
    lacking(folder, present)
    known = read_known(folder).files
    other = [path.name for path in present if known.get(path.name) != _hash(path.read_bytes())]
    if other:
        raise InputError(
            f"{shared(folder)}: {', '.join(other)} not as {known_path(folder)} says, by which `dvc repro` knows what "
            "has changed. `make absorb` notes what is there."
        )


def check_list(folder: Path, lines: Sequence[str]) -> None:
    """Raises InputError where the list of the forgotten does not begin with the one that is known."""
    known = read_known(folder)
    if known.digest is not None and digest_of(lines[: known.forgotten + 1]) != known.digest:
        raise InputError(
            f"{shared(folder)}/forgotten.txt is not the list that {known_path(folder)} knows, of {known.forgotten:,} "
            f"users who asked to be forgotten ({max(0, len(lines) - 1):,} are on the one there): their rows would come "
            f"back. Copy live/{folder.name}/ from the clone where `make forget` was run, as neither git nor DVC does."
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
        raise InputError(f"{path} cannot be read: {error}. `git checkout {path}` brings it back.") from error
    return content


def _known(content: dict[str, Any], folder: Path) -> Known:
    said = content.get(folder.name, {})
    try:
        return Known(said.get("log"), dict(said.get("files", {})), int(said.get("forgotten", 0)), said.get("digest"))
    except (TypeError, ValueError) as error:
        path = known_path(folder)
        raise InputError(f"{path}, {folder.name}: {error}. `git checkout {path}` brings it back.") from error


def _alone(folder: Path) -> AbstractContextManager[None]:
    return locked(folder.parent.parent / ".state" / "locks" / "live-known.lock")


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
