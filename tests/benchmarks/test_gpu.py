"""The GPU's benchmark runs through on a CPU at small sizes, and a step that fails leaves what the others measured."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks import gpu
from contracts.params import PARAMS, load_params

ROOT = Path(__file__).parents[2]


def test_every_step_says_something_and_a_device_that_is_the_cpu_equals_it(tmp_path: Path) -> None:
    out = tmp_path / "gpu.json"
    gpu.measure(load_params(ROOT / PARAMS)["model"], "cpu", small=True, limit_s=60, out=out)
    said = json.loads(out.read_text())
    assert all(said[step.__name__] for step in gpu.STEPS)
    assert not any("failed" in row for step in gpu.STEPS for row in said[step.__name__])
    assert [row["largest_difference_of_logits"] for row in said["equality"]] == [0.0, 0.0]
    assert said["equality"][0]["share_of_events_routed_otherwise"] == 0.0


def test_what_was_measured_stays_where_a_later_step_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> Iterator[dict[str, Any]]:
        yield {"rows": 1}
        raise RuntimeError("CUDA error: out of memory\nand more")

    monkeypatch.setattr(gpu, "STEPS", (broken, gpu.optimizer))
    out = tmp_path / "gpu.json"
    gpu.measure(load_params(ROOT / PARAMS)["model"], "cpu", small=True, limit_s=60, out=out)
    said = json.loads(out.read_text())
    assert said["broken"] == [{"rows": 1}, {"failed": "RuntimeError: CUDA error: out of memory"}]
    assert said["optimizer"]
