"""A small repository with git, DVC and three stages that use the real runner: what orchestration is tried on."""

import io
import os
import shutil
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import chdir, contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any, NamedTuple

import dagster as dg
import pytest
from dagster._core.test_utils import instance_for_test

ROOT = Path(__file__).resolve().parents[2]
TOY = Path(__file__).resolve().parent / "toy"


class Seen(NamedTuple):
    """A repository and the Dagster that knows it: what many tests begin with."""

    root: Path
    told: Path  # the home of Dagster
    cursor: str  # of its sensor

    @classmethod
    def by(cls, kind: Callable[[Path, dg.DagsterInstance], Any], root: Path, empty_instance: Path) -> "Seen":
        """What a door to root leaves after a tick of its sensor. kind: its class, Door of test_doors.py or below it."""
        told = shutil.copytree(empty_instance, root.parent / "dagster")
        with instance_for_test(temp_dir=str(told)) as instance:
            door = kind(root, instance)
            door.tick()
        return cls(root, told, str(door.cursor))

    @contextmanager
    def copied(self, kind: Callable[[Path, dg.DagsterInstance], Any], root: Path) -> Iterator[Any]:
        """A door to copies of both; the repository takes the place of root."""
        shutil.rmtree(root)
        shutil.copytree(self.root, root)
        told = shutil.copytree(self.told, root.parent / "dagster")
        with instance_for_test(temp_dir=str(told)) as instance:
            door = kind(root, instance)
            door.cursor = self.cursor
            yield door


class Toy:
    """The toy repository and what a person would do in it."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def dvc(self, *arguments: str) -> str:
        """A dvc command in the process of the tests, which has imported DVC, its stages in their own; its output. What
        dvc is as a program is what `orchestration.attempt` starts, and what tests/doors type."""
        from dvc.cli import main

        said = io.StringIO()
        with chdir(self.root), redirect_stdout(said), redirect_stderr(said), warnings.catch_warnings(action="ignore"):
            status = main(list(arguments))
        assert status == 0, said.getvalue()
        return said.getvalue()

    def python(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        """Run a module of this project in the toy repository."""
        return subprocess.run(
            [sys.executable, "-m", *arguments], cwd=self.root, capture_output=True, text=True, check=False
        )

    def set(self, **changes: object) -> None:
        """Change parameters: audit__min_session_events=3."""
        from orchestration.configure import configure

        configure({key.replace("__", "."): value for key, value in changes.items()}, self.root / "params.yaml")

    @contextmanager
    def held(self, *command: str) -> "Iterator[subprocess.Popen[str]]":
        """Start a command and have `count`, or `judge`, stand still in its middle until the block ends."""
        (self.root / "hold").touch()
        process = subprocess.Popen(
            [sys.executable, "-m", *command], cwd=self.root, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        try:
            while not (self.root / "held").exists():
                assert process.poll() is None, process.communicate()
                time.sleep(0.02)
            yield process
        finally:
            (self.root / "hold").unlink()
            (self.root / "held").unlink(missing_ok=True)

    @property
    def runs(self) -> list[str]:
        """The stages that really ran, in order."""
        log = self.root / "runs.txt"
        return log.read_text().split() if log.exists() else []

    def read(self, name: str) -> str:
        """A file of the outs."""
        return (self.root / "data" / "simulator" / name).read_text()


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The toy repository as it begins, made once."""
    root = tmp_path_factory.mktemp("toy") / "repository"
    (root / "toy").mkdir(parents=True)
    for module in TOY.glob("*.py"):
        shutil.copy(module, root / "toy")
    (root / "toy" / "__init__.py").touch()
    shutil.copy(TOY / "stages.yaml", root / "dvc.yaml")  # DVC reads every dvc.yaml that it finds in a repository
    shutil.copy(ROOT / "params.yaml", root)
    shutil.copytree(ROOT / "presets", root / "presets")
    ignored = "/data/ /attempts/ /.state/ /reports/ __pycache__/ runs.txt hold held /presets/kept/"
    (root / ".gitignore").write_text("\n".join(ignored.split()) + "\n")
    (root / ".dvcignore").write_text("__pycache__\nruns.txt\n.state\nattempts\n")
    subprocess.run(["git", "init", "-q"], cwd=root, check=True)
    made = Toy(root)
    made.dvc("init", "-q")
    made.set(source__name="simulator", seed=3, audit__min_session_events=2)
    return root


@pytest.fixture(scope="session")
def made_template(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The toy repository after one `dvc repro`, made once."""
    home = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment(home).items():
            patch.setenv(name, value)
        root = shutil.copytree(template, home / "repository")
        Toy(root).dvc("repro")
    return root


@pytest.fixture
def toy(template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Toy:
    """A fresh toy repository; stages find this project's packages, and nothing leaks to the person's own Dagster."""
    for name, value in environment(tmp_path).items():
        monkeypatch.setenv(name, value)
    return Toy(shutil.copytree(template, tmp_path / "repository"))


@pytest.fixture
def made_toy(made_template: Path, toy: Toy) -> Toy:
    """A toy repository in which `dvc repro` has made everything; there, `toy` is the same repository."""
    shutil.rmtree(toy.root)
    shutil.copytree(made_template, toy.root)
    return toy


@pytest.fixture(scope="session")
def empty_instance(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The home of an empty Dagster instance; its tables are created once, which takes half a second."""
    home = tmp_path_factory.mktemp("dagster")
    with instance_for_test(temp_dir=str(home)) as instance:
        assert not instance.get_runs()
        assert not instance.get_dynamic_partitions("none")
    return home


@pytest.fixture
def instance(empty_instance: Path, tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    """An empty Dagster instance of one's own."""
    home = shutil.copytree(empty_instance, tmp_path / "dagster")
    with instance_for_test(temp_dir=str(home)) as instance:
        yield instance


def environment(home: Path) -> Mapping[str, str]:
    """What the stages need to find this project; a cache of DVC's own."""
    return {
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]).strip(os.pathsep),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "DVC_NO_ANALYTICS": "1",
        "DVC_SITE_CACHE_DIR": str(home / "site"),
        "DAGSTER_DISABLE_TELEMETRY": "yes",
    }
