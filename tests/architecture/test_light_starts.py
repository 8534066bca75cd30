"""What a stage or a command does not need when it starts, it does not import: a user waits for it each time."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ALL = {"altair", "bentoml", "dagster", "dvc", "feast", "great_expectations", "ibis", "lightning", "pandas", "polars"}
ALL |= {"scipy", "sklearn", "sqlalchemy", "torch"}
NEEDED = {
    "features.stages.ingest": set(),
    "features.stages.validate": set(),
    "features.stages.describe": set(),
    "features.stages.quarantine": set(),
    "features.stages.histories": {"ibis"},
    "features.stages.statistics": {"ibis", "scipy"},
    "features.stages.audit": {"scipy"},
    "features.live.absorb": set(),
    "features.live.forget": set(),
    "training.evaluate": {"torch"},
    "training.review": set(),
    "serving.ask": set(),
    "serving.promote": {"torch"},
    "orchestration.configure": set(),
    "orchestration.doctor": set(),
    "orchestration.reproduce": set(),
}


@pytest.mark.parametrize("module", NEEDED)
def test_a_start_imports_what_it_needs(module: str) -> None:
    code = f"import sys, {module}; print(*sorted({ALL!r} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
    assert set(done.stdout.split()) == NEEDED[module]
