"""What the service must not need."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

BLOCKED = (
    "lightning",
    "dagster",
    "dvc",
    "dvclive",
    "ibis",
    "great_expectations",
    "duckdb",
    "training.train",
    "orchestration",
)


SERVING = ("serving.service", "serving.package", "serving.ask", "serving.bento", "serving.promote")


def test_serving_imports_without_what_only_other_stages_need() -> None:
    program = f"import sys; sys.modules.update(dict.fromkeys({BLOCKED!r})); import {', '.join(SERVING)}"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
