"""A copy of this repository as a person would clone it, and the commands that person would type."""

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

SMALL = (
    "simulator.num_days=6",
    "simulator.num_users=120",
    "simulator.num_sessions=24",
    "simulator.num_items=300",
    "train.max_requests=600",
    "train.router_steps=20",
    "train.router_starts=2",
    "train.num_threads=1",
    "model.history_length=50",
    "model.theme_capacity=16",
    "evaluate.num_bootstrap=20",
    "evaluate.min_requests=100000",
    "evaluate.serve=candidate",
    "materialize.num_parity_requests=50",
    "serve.log_exposures=false",
)
"""Overrides that make the whole pipeline a matter of start-up times. Too small to judge a model by: no verdict."""


def files_of_a_clone() -> list[str]:
    """What git would give a new clone of the working tree, by their paths from the root."""
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    return sorted(name for name in filter(None, listed.split("\0")) if (ROOT / name).is_file())


def clone(target: Path) -> Path:
    """Copy the files that git tracks in the working tree to a new git repository."""
    for name in files_of_a_clone():
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, target / name)
    for lock in (target / "dvc.lock", target / "reports"):  # what was made at full size is not what a small run makes
        shutil.rmtree(lock, ignore_errors=True) if lock.is_dir() else lock.unlink(missing_ok=True)
    (target / ".dagster").mkdir()
    shutil.copy2(target / "orchestration" / "dagster.yaml", target / ".dagster")
    for command in (
        ["git", "init", "-q", "-b", "main"],
        ["git", "add", "-A"],
        ["git", "-c", "user.name=test", "-c", "user.email=test@localhost", "commit", "-qm", "clone"],
    ):
        subprocess.run(command, cwd=target, check=True)
    return target


def run(repository: Path, *command: str, check: bool = True, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command in the repository's root; its output is part of a failure."""
    done = subprocess.run(
        command, cwd=repository, env=surroundings(repository) | environment, capture_output=True, text=True, check=False
    )
    if check and done.returncode:
        pytest.fail(f"{' '.join(command)} ended with {done.returncode}\n{done.stdout[-3000:]}\n{done.stderr[-6000:]}")
    return done


def surroundings(repository: Path) -> dict[str, str]:
    """The environment that the Makefile gives its commands; nothing of the `make test` that may run these tests."""
    ours = ("LEITMOTIF_", "DAGSTER_", "PYTEST_", "MAKE", "MFLAGS", "ARGS", "PYTHONDONTWRITEBYTECODE")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    return kept | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "DAGSTER_HOME": str(repository / ".dagster"),
        "BENTOML_HOME": str(repository / ".bentoml"),
        "BENTOML_DO_NOT_TRACK": "true",
        "DAGSTER_DISABLE_TELEMETRY": "yes",
        "DO_NOT_TRACK": "1",
        "DVC_NO_ANALYTICS": "1",
        "FEAST_USAGE": "False",
        "GX_ANALYTICS_ENABLED": "false",
        "OMP_WAIT_POLICY": "PASSIVE",
    }


def hashes(folder: Path) -> dict[str, str]:
    """Of every file below a folder: its path there -> SHA-256."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def real_data(name: str) -> Path:
    """The folder of a real log, or a skip that says where it was looked for."""
    folder = Path(os.environ.get("LEITMOTIF_DATA", ROOT.parent / "shared" / "data")) / name
    if not folder.is_dir():
        pytest.skip(f"the real log {name} is not here ({folder}); set LEITMOTIF_DATA to the folder that holds it")
    return folder
