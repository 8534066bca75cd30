"""What READ_BY says that a source does not read, it does not read: watched while it reads a small log."""

from pathlib import Path
from typing import Any

import pytest

from features.stages.ingest import run
from features.terms.params import READ_BY, SimulatorParams, SourceParams
from tests.features.ebnerd_bundle import write_bundle
from tests.features.raw_logs import COLUMNS, SMALL, source


class WatchedSource(SourceParams):
    """A section that notes which of its fields were asked for."""

    def __getattribute__(self, name: str) -> Any:
        if name in SourceParams.model_fields:
            ASKED.add(f"source.{name}")
        return super().__getattribute__(name)

    def model_copy(self, **how: Any) -> "WatchedSource":
        """What is set to something else before it is read is not read from params.yaml."""
        REPLACED.update(f"source.{name}" for name in how.get("update") or {})
        return super().model_copy(**how)


class WatchedSimulator(SimulatorParams):
    """The same of the simulator's."""

    def __getattribute__(self, name: str) -> Any:
        if name in SimulatorParams.model_fields:
            ASKED.add("simulator")
        return super().__getattribute__(name)


ASKED: set[str] = set()
REPLACED: set[str] = set()


def log_of(name: str, folder: Path) -> Path:
    """A small log of that source."""
    folder.mkdir()
    if name == "movielens":
        (folder / "ratings.csv").write_text("userId,movieId,rating,timestamp\n7,1,4.0,789652009\n")
        (folder / "movies.csv").write_text("movieId,title,genres\n1,Film,War\n")
    if name == "table":
        (folder / "log.csv").write_text("user,item,at,click\nu1,i1,2024-01-03T00:00:05,1\n")
    if name == "ebnerd":
        write_bundle(folder)
    return folder


@pytest.mark.parametrize("name", ["simulator", "movielens", "ebnerd", "table"])
def test_a_source_reads_no_key_that_is_said_to_be_another_s(tmp_path: Path, name: str) -> None:
    columns = COLUMNS if name == "table" else None
    given = source(name, log_of(name, tmp_path / "log"), columns).model_dump()
    watched = WatchedSource.model_validate(given), WatchedSimulator.model_validate(SMALL.model_dump())
    ASKED.clear()
    REPLACED.clear()
    run(tmp_path / "data" / name, 1, watched[1], watched[0])
    assert (ASKED - REPLACED) & READ_BY.keys() == {key for key, sources in READ_BY.items() if name in sources}
