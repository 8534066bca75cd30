"""One unit of work on an executor: checks that it runs our code beside our files, runs it, tells its result."""

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

LIBRARIES = ("duckdb", "ibis-framework", "numpy", "pyarrow")
ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Place:
    """Where a task must find itself: what the driver and every executor have in common."""

    folder: Path  # the driver's working directory, which names in units are relative to
    token: Path  # a file that the driver wrote into the shared folder
    code: str  # as code() has it on the driver
    environment: Mapping[str, str]  # what DuckDB reads of it

    @classmethod
    def here(cls, token: Path, environment: Mapping[str, str]) -> "Place":
        """The driver's own."""
        return cls(Path.cwd(), token.absolute(), code(), environment)

    def enter(self) -> None:
        """Raises InputError where this process sees other files or other code than the driver."""
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
class Told:
    """What a task tells the driver: the result, or an error that running it again would not mend."""

    result: Any = None
    error: InputError | CheckFailed | None = None


def run_unit(place: Place, function: Callable[[Any], Any], packed: bytes) -> bytes:
    """A pickled unit -> a pickled Told. Errors of the machine (a full disk, a lost file) go to Spark, which retries."""
    try:
        place.enter()
        told = Told(function(pickle.loads(packed)))
    except (InputError, CheckFailed) as error:
        told = Told(error=error)
    return pickle.dumps(told)


@cache
def code() -> str:
    """A hash of what the bytes of any unit depend on beside its files: our code, Python, the libraries."""
    digest = hashlib.sha256(f"{sys.version_info[:2]} {[version(name) for name in LIBRARIES]}".encode())
    for package in ("contracts", "features"):
        for path in sorted((ROOT / package).rglob("*.py")):
            digest.update(f"{path.relative_to(ROOT)}\0".encode() + path.read_bytes())
    return digest.hexdigest()
