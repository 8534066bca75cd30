"""A repository and some users -> every file that still names one of them, in the workspace and in DVC's cache.

Each object of DVC's cache is listed with the outputs that it was and the dvc.lock that names it: the current one, those
of the newest MAX_REVISIONS git revisions, and those of DVC's run cache.
"""

import json
import logging
import re
import sqlite3
import subprocess
import sys
import time
import zlib
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow as pa

from contracts.errors import InputError
from contracts.files import left_in_temp, remove_left
from features.live.spellings import NOBODY, Traces, Users, Wanted
from features.live.traces import look_into

log = logging.getLogger("leitmotif")

MAX_REVISIONS = 500
PROGRESS_S = 2.0
UNREADABLE = (OSError, EOFError, ValueError, pa.ArrowException, sqlite3.Error, zlib.error)
MADE = re.compile(r"path: (\S.*)\n\s+hash: md5\n\s+md5: (\w+(?:\.dir)?)")
"""An output, or a dependency that is one, in dvc.lock and in DVC's run cache."""
TRACKED = re.compile(r"md5: (\w+(?:\.dir)?)\n(?:.*\n)*?\s*path: (\S.*)")
"""The out of a .dvc file."""
EXPERIMENTS = ".dvc/tmp/exps"
"""Workspaces of experiments that are queued, run or failed."""
FETCHED = "fetched"
"""Copies of logs in buckets, of every address that was ever given (orchestration/fetch.py)."""
OF_DVC = f".{'[!.]' * 22}.tmp"
"""Temporary files of DVC in its cache, which `dvc gc` leaves."""
WORKSPACE, CACHE = "workspace", "DVC's cache"


@dataclass(frozen=True)
class Holding:
    """A file that names some of the users."""

    place: str  # WORKSPACE or CACHE
    path: str  # from the root; of an object in the cache, its md5
    num_bytes: int
    users: Users
    maybe: Users = NOBODY  # it has ids that may mean something else, such as a short number in a report
    versions: tuple[str, ...] = ()  # of a cached object: which outs it was, and in which dvc.lock


@dataclass(frozen=True)
class Holdings:
    """The result of searching all files."""

    holdings: tuple[Holding, ...]
    num_files: int
    not_read: tuple[str, ...]  # damaged files, whose content is unknown
    num_other: int  # files of kinds that are not searched


def find_holdings(root: Path, source: str, user_ids: Iterable[str]) -> Holdings:
    """Search every file that runs of this source may have left, and all of DVC's cache.

    The raw log (but for what was fetched of it), backups and DVC's remote are not searched.
    """
    wanted, cache = Wanted(frozenset(user_ids)), _cache_folder(root)
    objects = _objects(cache)
    files = [(WORKSPACE, _shown(root, path), path) for path in _workspace(root, source)]
    files += [(WORKSPACE, _shown(root, path), path) for path in sorted(cache.rglob(OF_DVC))]
    files += [(CACHE, name, path) for name, path in sorted(objects.items()) if not name.endswith(".dir")]
    held, not_read, num_other, told_at = [], [], 0, time.monotonic()
    seen: dict[tuple[int, int], Traces | None] = {}
    for number, (place, name, path) in enumerate(files, start=1):
        try:
            traces, num_bytes = _look(path, wanted, seen)
        except FileNotFoundError:  # it went meanwhile
            continue
        except UNREADABLE as error:
            not_read.append(f"{name}: {' '.join(str(error).split())}")
            continue
        num_other += traces is None
        if traces and any(traces):
            held.append(Holding(place, name, num_bytes, *traces))
        if time.monotonic() - told_at > PROGRESS_S:
            counts = (f"{count:,}" for count in (number, len(files), len(held)))
            log.info("looked into %s of %s files, %s of them name a user", *counts)
            told_at = time.monotonic()
    return Holdings(tuple(_with_versions(root, cache, objects, held)), len(files), tuple(not_read), num_other)


def remove_all_left(root: Path, source: str) -> int:
    """Remove the temporary files and folders of killed runs among these files; returns how many."""
    return sum(remove_left(path) for path in _workspace(root, source))


def _look(path: Path, wanted: Wanted, seen: dict[tuple[int, int], Traces | None]) -> tuple[Traces | None, int]:
    """(result of look_into, size in bytes). seen: results by inode, since workspace and cache share hard links."""
    status = path.stat()
    inode = (status.st_dev, status.st_ino)
    if inode not in seen:
        seen[inode] = look_into(path, wanted)
    return seen[inode], status.st_size


def _workspace(root: Path, source: str) -> Iterator[Path]:
    """Files that runs of this source leave beside DVC's cache."""
    folders = [root / "data" / source, root / "live" / source, root / ".state" / source, root / "attempts"]
    folders += [*sorted((root / ".cache").glob(f"*/{source}")), root / "champions" / source]
    folders += [root / "reports" / source, root / ".bentoml", root / "dist", root / ".dagster", root / EXPERIMENTS]
    folders += [root / FETCHED, *sorted((root / "champions").glob(f".{source}-*"))]
    yield from sorted((root / "live").glob(f"{source}.db*"))
    for left in left_in_temp():
        yield left
        folders.append(left)
    for folder in folders:
        yield from sorted(path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())


def _cache_folder(root: Path) -> Path:
    done = subprocess.run(
        [sys.executable, "-m", "dvc", "cache", "dir"], cwd=root, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise InputError(
            f"`dvc cache dir` ended with {done.returncode}: {done.stderr.strip()[-300:]}. The user is on the list; run "
            "`make setup`, then this again, to see which versions still hold the user."
        )
    return root / done.stdout.strip().splitlines()[-1]


def _objects(cache: Path) -> dict[str, Path]:
    """DVC's cached files by md5, in the layouts of DVC 3 and of earlier versions."""
    found = {}
    for parent in (cache, cache / "files" / "md5"):
        for path in parent.glob("[0-9a-f][0-9a-f]/*"):
            found[path.parent.name + path.name] = path
    return {name: path for name, path in found.items() if re.fullmatch(r"[0-9a-f]{32}(\.dir)?", name)}


def _with_versions(root: Path, cache: Path, objects: dict[str, Path], held: list[Holding]) -> Iterator[Holding]:
    """The holdings, those of the cache with what they were."""
    wanted = {each.path for each in held if each.place == CACHE}
    versions = _versions(root, cache, objects, wanted) if wanted else {}
    for each in held:
        known = versions.get(each.path, {}) if each.place == CACHE else {}
        yield replace(each, versions=tuple(f"{out} ({', '.join(sorted(known[out]))})" for out in sorted(known)))


def _versions(root: Path, cache: Path, objects: dict[str, Path], wanted: set[str]) -> dict[str, dict[str, set[str]]]:
    """md5 -> output, or file within it -> where it is recorded."""
    outs: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for where, text in _locks(root, cache):
        for path, name in [*MADE.findall(text), *((path, name) for name, path in TRACKED.findall(text))]:
            outs[name][path.strip()].add(where)
    known: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for name, path in objects.items():
        if not name.endswith(".dir"):
            continue
        for member in json.loads(path.read_text(encoding="utf-8")):
            if member["md5"] in wanted:
                for out, where in (outs.get(name) or {"a folder that no dvc.lock names": {name}}).items():
                    known[member["md5"]][f"{out}/{member['relpath']}"] |= where
    for name in wanted & outs.keys():
        for out, where in outs[name].items():
            known[name][out] |= where
    return known


def _locks(root: Path, cache: Path) -> Iterator[tuple[str, str]]:
    """(where, text) of every dvc.lock, .dvc file of a champion and remembered run that can be found."""
    for path in (root / "dvc.lock", *sorted((root / "champions").glob("*.dvc"))):
        if path.is_file():
            yield f"{path.name} now", _beside(path.name, path.read_text(encoding="utf-8"))
    for path in sorted((cache / "runs").glob("*/*/*")):
        yield "a remembered run", path.read_text(encoding="utf-8")
    for name in ("dvc.lock", *(f"champions/{path.name}" for path in sorted((root / "champions").glob("*.dvc")))):
        revisions = _git(root, "log", "--all", f"-{MAX_REVISIONS}", "--format=%h", "--", name).split()
        for revision in revisions:
            yield f"{revision}:{name}", _beside(name, _git(root, "show", f"{revision}:./{name}"))


def _beside(name: str, text: str) -> str:
    """A .dvc file names its out from its own folder."""
    return text.replace("path: ", "path: champions/") if name.endswith(".dvc") else text


def _git(root: Path, *command: str) -> str:
    """Git's output; empty if git is missing or fails."""
    try:
        done = subprocess.run(["git", *command], cwd=root, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return ""
    return done.stdout if done.returncode == 0 else ""


def _shown(root: Path, path: Path) -> str:
    return (path.relative_to(root) if path.is_relative_to(root) else path).as_posix()
