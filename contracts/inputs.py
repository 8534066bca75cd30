"""Record what a stage reads when it begins, and find what has changed when it ends.

DVC writes into dvc.lock the hashes of params and files as they are when a stage ends, but the stage read them when it
began. If they changed in between, the lock would record inputs that were never used. The runner therefore checks here,
and such a stage fails.

Contents are compared, not times: a file that is touched, or replaced by an identical one, has not changed. A file whose
hash no earlier run has remembered (contracts/known_hashes.py) is read at the start (about a second a gigabyte, which is
then in the page cache for the stage), and every file again at the end only if its inode, size or change time differ, or
if that time was too recent to tell two writes apart.
"""

import fnmatch
import hashlib
import json
import os
import re
import stat
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from contracts.errors import InputError
from contracts.files import hash_file
from contracts.known_hashes import YOUNG_NS, hash_of
from contracts.params import PARAMS, read_params

PIPELINE = Path("dvc.yaml")
NAMED = 5  # at most so many changes are named in a message

Place = tuple[int, int, int]  # inode, size, time of change


@dataclass(frozen=True)
class File:
    """The recorded state of one file."""

    place: Place
    is_young: bool  # written within YOUNG_NS: a later write may carry the same time
    digest: str


class Read(TypedDict):
    """What shows of a dep without reading it."""

    size: int  # bytes of all files, as DVC counts them
    files: str  # a digest of their names, sizes and times of change


@dataclass(frozen=True)
class Inputs:
    """What a stage reads according to dvc.yaml, with its state at one moment."""

    params: Mapping[str, str]  # key of params.yaml -> its value, as JSON
    deps: tuple[str, ...]
    files: Mapping[str, File]  # all files of the deps
    outs: tuple[str, ...]  # the stage's outputs

    def read(self, root: Path = Path()) -> dict[str, Read]:
        """Of each dep without modules, such as a log: what the stage read."""
        places = {path: file.place for path, file in self.files.items()}
        within = {dep: [path.as_posix() for path in _files([dep], root)] for dep in self.deps}
        return {
            dep: _read({path: places[path] for path in paths if path in places})
            for dep, paths in within.items()
            if not any(path.endswith(".py") for path in paths)
        }


def note_inputs(stage: str, raw: Mapping[str, Any], sections: Sequence[str], root: Path = Path()) -> Inputs:
    """Note what a stage reads.

    raw: params.yaml as the stage has just read it. sections: those in the stage's signature, recorded in addition to
        what dvc.yaml names. Without a dvc.yaml, or without the stage in it, only these are recorded.
    """
    definition = _definition(stage, root)
    keys = dict.fromkeys([*_names(definition.get("params", [])), *sections])
    deps = tuple(fill(dep, raw) for dep in _names(definition.get("deps", [])))
    return Inputs(
        params={key: _value(raw, key) for key in keys},
        deps=deps,
        files={path.as_posix(): _note(root / path) for path in _files(deps, root)},
        outs=tuple(fill(out, raw) for out in _names(definition.get("outs", []))),
    )


def check_modules(stage: str, inputs: Inputs, root: Path = Path()) -> None:
    """Raise InputError if a module was edited after this process began: it may have imported the old version."""
    if edited := _edited_since_start([path for path in inputs.files if path.endswith(".py")], root):
        raise InputError(f"{_listed(edited)} changed while {stage} was starting. Nothing was written; run it again.")


def changes(inputs: Inputs, root: Path = Path()) -> list[str]:
    """Describe what has changed since it was recorded; empty if nothing has."""
    found = [*_changed_params(inputs, root)]
    now = [path.as_posix() for path in _files(inputs.deps, root)]
    found += [f"{path} (new)" for path in now if path not in inputs.files]
    found += [f"{path} (gone)" for path in inputs.files if path not in set(now)]
    found += [path for path in now if path in inputs.files and _is_another(root / path, inputs.files[path])]
    return found


def read_now(dep: str, root: Path = Path()) -> Read:
    """What a stage would read of a dep that began now."""
    return _read({path.as_posix(): _place(root / path) for path in _files([dep], root)})


def said(stage: str, found: Sequence[str]) -> str:
    """The message of a stage whose inputs changed while it ran."""
    return (
        f"changed while {stage} ran: {_listed(found)}. What it made is of what stood before, so it does not count as "
        "made. Run it again."
    )


def fill(text: str, values: Mapping[str, Any]) -> str:
    """dvc.yaml's ${section.name} replaced by values, as DVC does it."""
    return re.sub(r"\$\{\s*([^}\s]+)\s*\}", lambda match: str(_look_up(values, match[1])), text)


def _read(places: Mapping[str, Place]) -> Read:
    seen = sorted((path, *place[1:]) for path, place in places.items())  # a checkout gives files other inodes
    return Read(
        size=sum(place[1] for place in places.values()), files=hashlib.sha256(repr(seen).encode()).hexdigest()[:16]
    )


def _definition(stage: str, root: Path) -> Mapping[str, Any]:
    path = root / PIPELINE
    try:
        pipeline = YAML(typ="safe").load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError, YAMLError) as error:
        raise InputError(f"{PIPELINE} cannot be read: {error}. `git diff {PIPELINE}` shows what changed.") from error
    return ((pipeline or {}).get("stages") or {}).get(stage) or {}


def _names(entries: Sequence[Any]) -> list[str]:
    """Entries of dvc.yaml: a name, or a name with its settings."""
    return [entry if isinstance(entry, str) else next(iter(entry)) for entry in entries]


def _look_up(values: Mapping[str, Any], key: str) -> Any:
    found: Any = values
    for name in key.split("."):
        if not isinstance(found, Mapping) or name not in found:
            raise InputError(f"{PIPELINE} names {key}, which {PARAMS} does not have.")
        found = found[name]
    return found


def _value(values: Mapping[str, Any], key: str) -> str:
    try:
        return json.dumps(_look_up(values, key), sort_keys=True, default=str)
    except InputError:
        return "missing"


def _changed_params(inputs: Inputs, root: Path) -> Iterator[str]:
    try:
        raw = read_params(root / PARAMS)
    except InputError as error:
        yield str(error).removesuffix(".")
        return
    for key, before in inputs.params.items():
        now = _value(raw, key)
        if now == before:
            continue
        leaves, others = _leaves(key, before), _leaves(key, now)
        for leaf in dict.fromkeys([*leaves, *others]):
            was, is_now = leaves.get(leaf, "missing"), others.get(leaf, "missing")
            if was != is_now:
                yield f"{leaf} ({was} when it began, {is_now} now)"


def _leaves(key: str, text: str) -> dict[str, str]:
    value = None if text == "missing" else json.loads(text)
    if not isinstance(value, dict):
        return {key: text}
    below = [_leaves(f"{key}.{name}", json.dumps(child, sort_keys=True)) for name, child in value.items()]
    return {leaf: each for leaves in below for leaf, each in leaves.items()}


def _files(deps: Sequence[str], root: Path) -> Iterator[Path]:
    """Every file of the deps, relative to root, without those that DVC ignores."""
    ignored = _ignored(root)
    for dep in deps:
        path = root / dep
        if path.is_dir():
            walked: set[str] = set()
            for folder, folders, names in os.walk(path, followlinks=True):
                inside, real = Path(os.path.relpath(folder, root)), os.path.realpath(folder)
                if real in walked:  # a link back up
                    folders.clear()
                    continue
                walked.add(real)
                folders[:] = sorted(name for name in folders if not _is_ignored(inside / name, ignored))
                yield from (inside / name for name in sorted(names) if not _is_ignored(inside / name, ignored))
        elif path.exists():
            yield Path(dep)


def _ignored(root: Path) -> list[str]:
    path = root / ".dvcignore"
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    return [line.strip() for line in lines if line.strip() and not line.startswith("#")]


def _is_ignored(path: Path, patterns: Sequence[str]) -> bool:
    """The two forms of pattern in this repository's .dvcignore: a name at any depth, and a path from the root."""
    return any(
        fnmatch.fnmatch(path.as_posix(), pattern.strip("/"))
        if "/" in pattern.rstrip("/")
        else fnmatch.fnmatch(path.name, pattern.rstrip("/"))
        for pattern in patterns
    )


def _note(path: Path) -> File:
    place, now = _place(path), time.time_ns()
    return File(place, now - place[2] < YOUNG_NS, _digest(path, hash_of))


def _is_another(path: Path, before: File) -> bool:
    if _place(path) == before.place and not before.is_young:
        return False
    return _digest(path) != before.digest


def _place(path: Path) -> Place:
    try:
        seen = path.stat()
    except OSError:
        return (0, 0, 0)
    return (seen.st_ino, seen.st_size, seen.st_mtime_ns)


def _digest(path: Path, hashed: Callable[[Path], str] = hash_file) -> str:
    """The hash of a file's content, or the reason why it cannot be read."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            return "no file"
        return hashed(path)
    except OSError as error:
        return type(error).__name__


def _edited_since_start(paths: Sequence[str], root: Path) -> list[str]:
    began, now = _began_ns(), time.time_ns()
    found = []
    for path in paths:
        try:
            seen = (root / path).stat()
        except OSError:
            continue
        if began < max(seen.st_mtime_ns, seen.st_ctime_ns) < now + YOUNG_NS:  # later than now: another machine's clock
            found.append(path)
    return found


def _began_ns() -> int:
    """When this process began; now where the system does not say, so that no edit can be detected."""
    try:
        ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
        age_s = time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
    except (OSError, AttributeError, ValueError):
        return time.time_ns()
    return time.time_ns() - int(age_s * 10**9) + 20_000_000  # a clock tick, and the coarse clock of file times


def _listed(found: Sequence[str]) -> str:
    more = f" and {len(found) - NAMED:,} more" if len(found) > NAMED else ""
    return ", ".join(found[:NAMED]) + more
