"""The small pipeline, run once for all who need it: whichever process of pytest comes first, runs it."""

import fcntl
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.clones import SMALL, clone, run

DONE = ".prepared"


def prepared(factory: pytest.TempPathFactory) -> Path:
    """A clone in which `make run` has run once on a small simulated log. It is shared: copy it, do not change it."""
    base = factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    repository = shared / "small-pipeline"
    with (shared / "small-pipeline.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (shared / DONE).exists():
            if repository.exists():
                pytest.fail(f"the small pipeline failed to run before this test; see {repository}")
            repository.mkdir()
            add_environment(clone(repository))
            run(repository, "make", "run", f"ARGS={' '.join(SMALL)}")
            (shared / DONE).touch()
    return repository


def copied(repository: Path, target: Path) -> Path:
    """A copy of one's own, links among its files kept."""
    subprocess.run(["cp", "-a", f"{repository}/.", target], check=True)
    return target


def add_environment(repository: Path) -> Path:
    """Give a clone the virtual environment that runs these tests, so that `make` finds it set up."""
    environment = repository / ".venv"
    environment.mkdir()
    for name in ("bin", "lib", "lib64", "include", "share", "pyvenv.cfg"):
        if (Path(sys.prefix) / name).exists():
            (environment / name).symlink_to(Path(sys.prefix) / name)
    (environment / ".ready").touch()
    return repository
