"""One unit of work on an executor: check that it has the driver's files and code, run it, return the result."""

import hashlib
import os
import pickle
import platform
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from contracts.errors import CheckFailed, InputError

LIBRARIES = ("duckdb", "feast", "ibis-framework", "numpy", "pyarrow")
ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Place:
    """What the driver and every executor must have in common."""

    folder: Path  # the driver's working directory, to which paths in units are relative
    token: Path  # a file that the driver wrote into the shared folder
    code: str  # code() on the driver
    environment: Mapping[str, str]  # variables that DuckDB's settings depend on

    @classmethod
    def here(cls, token: Path, environment: Mapping[str, str]) -> "Place":
        """The place of the driver."""
        return cls(Path.cwd(), token.absolute(), code(), environment)

    def enter(self) -> None:
        """Make this process run there. Raises InputError if it sees other files or other code than the driver."""
        if not self.folder.is_dir() or not self.token.is_file():
            raise InputError(
                f"engine: {platform.node()} (process {os.getpid()}) does not see {self.token}. The driver and the "
                "executors must share the folder of the repository (NFS, or a volume mounted at the same path on each)."
            )
        if code() != self.code:
            raise InputError(
                f"engine: the code at {ROOT} of {platform.node()}, or its version of Python or of one of "
                f"{', '.join(LIBRARIES)}, is not the driver's. Install the same requirements.lock and code there."
            )
        os.chdir(self.folder)
        os.environ.update(self.environment)


@dataclass(frozen=True)
class TaskResult:
    """What a task returns to the driver: the result, or an error that a retry would not fix."""

    result: Any = None
    error: InputError | CheckFailed | None = None


def run_unit(place: Place, function: Callable[[Any], Any], packed: bytes) -> bytes:
    """A pickled unit -> a pickled TaskResult. Other errors, such as a full disk, are raised: Spark retries the task."""
    try:
        place.enter()
        result = TaskResult(function(pickle.loads(packed)))
    except (InputError, CheckFailed) as error:
        result = TaskResult(error=error)
    return pickle.dumps(result)


@cache
def code() -> str:
    """A hash of everything but its files that the output of a unit depends on: our code, Python, the libraries."""
    digest = hashlib.sha256(f"{sys.version_info[:2]} {[version(name) for name in LIBRARIES]}".encode())
    for package in ("contracts", "features"):
        for path in sorted((ROOT / package).rglob("*.py")):
            digest.update(f"{path.relative_to(ROOT)}\0".encode() + path.read_bytes())
    return digest.hexdigest()
