"""pyproject.toml and requirements.lock -> every package that a service needs, at its locked version; for builds."""

import importlib.metadata
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from contracts.errors import InputError

ROOT = Path(__file__).resolve().parents[2]
NOT_FROZEN = ("setuptools", "nvidia-ml-py")
"""Left out by `pip freeze`, or with torch's packages, and so by the lock; the installed version is used."""
OF_TORCH = ("nvidia-", "cuda-", "triton")
"""Packages for GPUs that torch pins itself; nvidia-ml-py, of BentoML, is none."""


def locked(root: Path) -> list[str]:
    """All direct and indirect dependencies of the service, as `name==version` of requirements.lock.

    Raises InputError if the lock lacks one.
    """
    pinned = _pinned(root / "requirements.lock") | {name: importlib.metadata.version(name) for name in NOT_FROZEN}
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    waiting = [Requirement(each) for each in [*project["dependencies"], *project["optional-dependencies"]["serve"]]]
    done: set[tuple[str, frozenset[str]]] = set()
    names: set[str] = set()
    while waiting:
        wanted = waiting.pop()
        name = canonicalize_name(wanted.name)
        if (name, frozenset(wanted.extras)) in done or (name.startswith(OF_TORCH) and name not in NOT_FROZEN):
            continue
        done.add((name, frozenset(wanted.extras)))
        names.add(name)
        if name not in pinned:
            raise InputError(f"requirements.lock pins no version of {name}, which the service needs. Lock again.")
        waiting += _required(name, wanted.extras)
    return [f"{name}=={pinned[name]}" for name in sorted(names)]


def _required(name: str, extras: set[str]) -> list[Requirement]:
    """The dependencies of an installed package in this environment."""
    required = [Requirement(each) for each in importlib.metadata.requires(name) or []]
    environments = [{"extra": extra} for extra in ("", *extras)]
    return [each for each in required if not each.marker or any(each.marker.evaluate(one) for one in environments)]


def _pinned(lock: Path) -> dict[str, str]:
    found = {}
    for line in lock.read_text(encoding="utf-8").splitlines():
        name, equals, version = line.partition("==")
        if equals and not line.startswith("#"):
            found[canonicalize_name(name)] = version.split()[0]
    return found
