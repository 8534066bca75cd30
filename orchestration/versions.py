"""dvc.lock and the working files -> data versions: what each stage made and from what, and the present state.

Keys are Dagster's: an out by its name, `params/<section>` for a section of params.yaml, `code/<stage>` for everything
else that makes a stage what it is (command, paths, modules, raw logs). Both sides hash alike, so equal versions mean
that `dvc repro` has nothing to do.
"""

import hashlib
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from orchestration.dvc_lock import LockBusy, patiently
from orchestration.graph import Graph, Stage

ABSENT = "absent"
_LARGE = 2**20  # bytes from which on DVC hashes, since it remembers
_SETTLED_S = 0.1  # a file that nobody wrote to for so long is whole


@dataclass(frozen=True)
class Made:
    """What dvc.lock says of one stage."""

    stage: Stage
    cmd: str
    versions: Mapping[str, str]  # out -> DVC's hash
    sizes: Mapping[str, int]  # out -> bytes
    inputs: Mapping[str, str]  # out, params/<section>, code/<stage> -> version at the time


def params_key(section: str) -> str:
    """The observed asset of one section of params.yaml."""
    return f"params/{section}"


def code_key(stage: str) -> str:
    """The observed asset of one stage's definition and modules."""
    return f"code/{stage}"


def read_made(graph: Graph) -> list[Made]:
    """Every stage that dvc.lock holds for the present source, upstream first. Raises LockBusy."""
    lock = _read_yaml(graph.root / "dvc.lock").get("stages", {})
    return [made for stage in graph.stages if (made := _made(stage, lock.get(stage.name)))]


def read_sizes(graph: Graph) -> dict[str, dict[str, int]]:
    """Stage -> dep -> bytes, as dvc.lock says; a dep that was not there is left out. Raises LockBusy."""
    lock = _read_yaml(graph.root / "dvc.lock").get("stages", {})
    return {
        stage.name: {dep["path"]: dep["size"] for dep in lock.get(stage.name, {}).get("deps", []) if "size" in dep}
        for stage in graph.stages
    }


def observe(graph: Graph) -> dict[str, str]:
    """The present version of every params section and every stage's code. Raises LockBusy."""
    values = _read_yaml(graph.root / "params.yaml")
    observed = {params_key(section): _digest(values.get(section)) for section in graph.sections}
    hashes = _hash_files(graph)
    for stage in graph.stages:
        outs = [out.path for out in stage.outs]
        files = {path: hashes[path] for path in stage.files}
        observed[code_key(stage.name)] = _code_version(stage.cmd, outs, files)
    return observed


def _made(stage: Stage, entry: Mapping[str, Any] | None) -> Made | None:
    outs = {out["path"]: out for out in (entry or {}).get("outs", [])}
    if entry is None or any(out.path not in outs for out in stage.outs):
        return None  # never made, or made for another source
    deps = {dep["path"]: dep.get("md5", ABSENT) for dep in entry.get("deps", [])}
    params = {key: value for values in entry.get("params", {}).values() for key, value in values.items()}
    tables = {out.path: out.key for out in stage.inputs}
    inputs = {tables[path]: version for path, version in deps.items() if path in tables}
    inputs |= {params_key(section): _digest(params[section]) for section in stage.params if section in params}
    files = {path: version for path, version in deps.items() if path not in tables}
    tables_made = [path for path in outs if path not in (stage.report, stage.figures)]
    inputs[code_key(stage.name)] = _code_version(entry["cmd"], tables_made, files)
    return Made(
        stage=stage,
        cmd=entry["cmd"],
        versions={out.key: outs[out.path]["md5"] for out in stage.outs},
        sizes={out.key: outs[out.path].get("size", 0) for out in stage.outs},
        inputs=inputs,
    )


def _code_version(cmd: str, outs: list[str], files: Mapping[str, str]) -> str:
    return _digest([cmd, sorted(outs), sorted(files.items())])


def _digest(value: object) -> str:
    text = json.dumps(value, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _hash_files(graph: Graph) -> dict[str, str]:
    paths = sorted({path for stage in graph.stages for path in stage.files})
    large = [path for path in paths if _is_large(graph.root / path)]
    hashes = {path: _hash_small(graph.root / path) for path in paths if path not in large}
    return hashes | (_hash_large(graph.root, large) if large else {})


def _is_large(path: Path) -> bool:
    return path.is_dir() or (path.exists() and path.stat().st_size >= _LARGE)


def _hash_small(path: Path) -> str:
    try:
        return hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()
    except FileNotFoundError:
        return ABSENT


def _hash_large(root: Path, paths: list[str]) -> dict[str, str]:
    from dvc.repo import Repo

    with Repo(str(root)) as repo:
        deps = {dep.def_path: dep for stage in repo.stage.load_all(str(root / "dvc.yaml")) for dep in stage.deps}
        return {path: deps[path].get_hash().value or ABSENT for path in paths}


def _read_yaml(path: Path) -> Mapping[str, Any]:
    return patiently(lambda: _read_once(path))


def _read_once(path: Path) -> Mapping[str, Any]:
    if not path.exists():
        return {}
    text = path.read_text(encoding="utf-8")
    while time.time() - path.stat().st_mtime < _SETTLED_S:  # DVC writes in place: the first half may be good YAML too
        time.sleep(_SETTLED_S)
        text = path.read_text(encoding="utf-8")
    try:
        read = _parsed(text)
    except YAMLError as error:
        said = " ".join(str(error).split())
        raise LockBusy(
            f"{path.name} cannot be read: {said}. If nothing writes there now, mend it or `git checkout` it"
        ) from error
    if not isinstance(read, Mapping):
        raise LockBusy(f"{path.name} cannot be read: it holds no keys")
    return read


@lru_cache(maxsize=4)
def _parsed(text: str) -> Any:
    """Of the two files every tick and every step of a run reads the same text again, a tenth of a second each time."""
    return YAML(typ="safe").load(text)
