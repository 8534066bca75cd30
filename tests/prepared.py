"""The small pipeline, run once for all tests that need it, by the first process of pytest that does.

Its outputs are cached for later runs of the tests, keyed by code, parameters and locked packages.
"""

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.clones import ROOT, SMALL, clone, files_of_a_clone, run

MAKES_NOTHING = ("tests/", "docs/", "reports/", ".ci/", "README.md", "LICENSE", "dvc.lock")
MAKES = ("tests/clones.py", "tests/prepared.py")
NUM_KEPT = 4
"""As many as there may be working trees whose tests run at once."""


def prepared(factory: pytest.TempPathFactory) -> Path:
    """A clone in which `make run` has run once on a small simulated log. It is shared: copy it, do not change it."""
    base = factory.getbasetemp()
    session = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    kept, failed = session.parent / "small-pipelines", session / "small-pipeline-failed"
    kept.mkdir(exist_ok=True)
    repository = kept / _content()
    with repository.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if failed.exists():
            pytest.fail(f"the small pipeline failed to run before this test; see {failed.read_text()}")
        if not repository.exists():
            making = repository.with_suffix(".making")
            failed.write_text(str(making))
            shutil.rmtree(making, ignore_errors=True)
            making.mkdir()
            run(add_environment(clone(making)), "make", "run", f"ARGS={' '.join(SMALL)}")
            making.rename(repository)
            failed.unlink()
    os.utime(repository)
    done = [each for each in kept.iterdir() if each.is_dir() and not each.suffix]
    for old in sorted(done, key=lambda each: each.stat().st_mtime)[:-NUM_KEPT]:
        shutil.rmtree(old, ignore_errors=True)
    return repository


def _content() -> str:
    """The name of all that the small pipeline is made of."""
    made_of = hashlib.sha256(f"{sys.version} {sys.prefix}".encode())
    for name in files_of_a_clone():
        if name in MAKES or not name.startswith(MAKES_NOTHING):
            made_of.update(f"{name}\0".encode() + hashlib.sha256((ROOT / name).read_bytes()).digest())
    return made_of.hexdigest()[:16]


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
