"""Shapes at the model's tensor boundaries are checked in every test; tests of one group run in one process."""

import gc
import logging
import os
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from jaxtyping import install_import_hook

import features.feast_store  # noqa: F401  (before a test imports Feast)

install_import_hook(["training.fitting.losses", "training.model"], "beartype.beartype")

for name in [each for each in os.environ if each.startswith(("MAKE", "MFLAGS", "ARGS", "GIVEN_"))]:
    del os.environ[name]  # what a test starts is not started by the `make test` that runs the tests

settings.register_profile("leitmotif", deadline=None)  # no test asserts a speed
settings.load_profile("leitmotif")

GROUP = re.compile(r'xdist_group\("([\w-]+)"\)')
LONGEST = (
    "quality",
    "serving",
    "redis",
    "machines",
    "ebnerd_models",
    "door-ui",
    "door-commands",
    "pipeline",
    "ebnerd",
    "spark",
    "door-serve",
    "feast",
    "tests/orchestration/test_two_doors.py",
    "tests/training/test_nodes.py",
    "tests/features/stages/test_validate.py",
    "tests/features/live/test_forget.py",
    "tests/orchestration/test_seam.py",
    "tests/orchestration/test_termination.py",
    "tests/orchestration/test_doors.py",
    "tests/orchestration/test_alerts.py",
    "tests/orchestration/test_fetch.py",
    "tests/features/stages/test_statistics_by_partition.py",
    "tests/training/test_resume.py",
    "tests/orchestration/test_reproduce.py",
    "tests/orchestration/test_partitions.py",
    "tests/training/test_train_and_evaluate.py",
    "tests/benchmarks/test_commands.py",
    "tests/training/test_exported.py",
    "tests/training/test_processes.py",
)
"""Groups, and files without one, in the order in which they begin: by the seconds they take. Then the others, those
with most tests first: most take a second or two."""


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """The million objects that the tests' imports leave are not searched for garbage: neither while they are imported,
    which took a seventh of that time, nor by each later search through all that lives."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.collect()
        gc.freeze()
        gc.enable()


@pytest.fixture(autouse=True)
def _log_of_this_test_alone() -> Iterator[None]:
    """A command that a test runs in this process may turn our log down; for the next test it is as it was."""
    log = logging.getLogger("leitmotif")
    level, propagates, handlers = log.level, log.propagate, log.handlers[:]
    yield
    log.setLevel(level)
    log.propagate, log.handlers[:] = propagates, handlers


@pytest.fixture
def tmp_path(tmp_path: Path) -> Path:
    """A test's folder, two deeper than pytest's: the live events of a log at `<root>/data/<log>` lie in `<root>/live`,
    so that a log right in pytest's folder would read and leave events where other tests keep theirs."""
    folder = tmp_path / "root" / tmp_path.name
    folder.mkdir(parents=True)
    return folder


@cache
def group_of(path: Path) -> str | None:
    """The group that a file of tests names."""
    named = GROUP.search(path.read_text(encoding="utf-8")) if path.is_file() else None
    return named[1] if named else None


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> object:
    """Keep a group together, a file that names none too, and begin with the longest, so that both cores end together.

    xdist 3.8 writes the group into `item._nodeid`, which pytest 9 reads no more, and begins with most tests.
    """
    from xdist.scheduler.loadscope import LoadScopeScheduling

    class ByGroup(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.partition("::")[0]
            return group_of(config.rootpath / file) or file

        def _assign_work_unit(self, node: Any) -> None:
            self.workqueue.move_to_end(min(self.workqueue, key=self._turn), last=False)
            super()._assign_work_unit(node)

        def _turn(self, scope: str) -> tuple[int, int]:
            place = LONGEST.index(scope) if scope in LONGEST else len(LONGEST)
            return place, -len(self.workqueue[scope])

    return ByGroup(config, log)  # type: ignore[arg-type]
