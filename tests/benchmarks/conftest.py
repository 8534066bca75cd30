"""A small simulated log up to its counters, and its parts in the challenge track."""

import shutil
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from contracts.params import PARAMS, load_params
from features.stages import histories, ingest, statistics
from features.terms.params import SimulatorParams

pytest.importorskip("lightgbm", reason="pip install -e '.[benchmarks]'")

from benchmarks.tracks import Log, Track, open_log, read_track

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def sections() -> dict:
    found = load_params(ROOT / PARAMS)
    found["evaluate"] = found["evaluate"].model_copy(update={"num_bootstrap": 20})
    return found


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    sections = load_params(ROOT / PARAMS)
    folder = tmp_path_factory.mktemp("benchmarks") / "data" / "simulator"
    simulator = SimulatorParams(
        preference="item", num_days=36, num_users=90, num_items=60, num_themes=6, num_sessions=14, item_life_days=20.0
    )
    ingest.run(folder, 1, simulator, sections["source"].model_copy(update={"name": "simulator"}))
    shutil.copytree(folder / "interactions", folder / "validated_interactions")
    (folder / "quarantine").mkdir()
    pq.write_table(histories.schema.QUARANTINE.empty_table(), folder / "quarantine" / "quarantine.parquet")
    histories.run(folder, sections["request"], sections["history"])
    statistics.run(folder, sections["statistics"])
    return folder


@pytest.fixture(scope="module")
def source(data: Path, sections: dict) -> Log:
    return open_log(data, sections, 2000)


@pytest.fixture(scope="module")
def track(source: Log) -> Track:
    return read_track(source, replace(source.spec, in_list=True))


@pytest.fixture(autouse=True)
def _few_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.trees.MAX_ROUNDS", 8)
    monkeypatch.setattr("benchmarks.trees.GRID", ({"num_leaves": 7, "min_data_in_leaf": 20},) * 2)
