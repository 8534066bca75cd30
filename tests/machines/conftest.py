"""What machines share: a clone of this repository, which every one of them sees at the repository's own path."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.clones import clone
from tests.machines.machines import Machines, missing


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The clone, as the host sees it."""
    if (why := missing()) is not None:
        pytest.skip(why)
    house = clone(tmp_path_factory.mktemp("shared") / "house")
    (house / ".venv").mkdir()  # where machines see that of these tests
    return house


@pytest.fixture
def machines(shared: Path, tmp_path: Path) -> Iterator[Callable[..., Machines]]:
    """Starts so many machines, that share the clone or another house; they are gone at the end of the test."""
    started: list[Machines] = []

    def start(number: int, house: Path = shared) -> Machines:
        started.append(Machines(house, number, tmp_path).__enter__())
        return started[-1]

    yield start
    for each in started:
        each.__exit__(None, None, None)
