"""What the README claims of the model holds on simulated logs: the default one, and a small world like it."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.reproduce import Fit, fitted, open_bench
from benchmarks.variants import GROUPS
from contracts.params import load_params
from contracts.schema import UNKNOWN_INDEX
from orchestration.configure import configure
from tests.clones import clone, run
from tests.one_process import run_stages
from training.judging.measure import bootstrap_iauc
from training.train import feature_spec, prepare

pytestmark = pytest.mark.xdist_group("quality")

LITTLE = {"train.num_threads": 1, "evaluate.num_bootstrap": 20, "materialize.num_parity_requests": 50}
SMALL_WORLD = {
    "simulator.num_days": 8,
    "simulator.num_users": 500,
    "simulator.num_items": 500,
    "train.max_requests": 4000,
}
STAGES = (
    *(f"features.stages.{name}" for name in ("ingest", "validate", "histories", "statistics", "materialize")),
    *("training.train", "training.evaluate"),
)


def themes_win(repository: Path) -> None:
    report = json.loads((repository / "reports/simulator/evaluate.json").read_text())
    models: dict[str, Any] = report["models"]
    assert report["verdict"] == {"state": "passed", "passed": True, "reasons": None}
    assert models["mos"]["auc"] > models["din"]["auc"] + 0.01  # one seed gave +.027, in the small world +.034
    assert models["mos"]["auc"] > models["popularity"]["auc"] + 0.1
    assert report["theme_recovery_nmi"] > 0.5


def learnt_themes_beat_random_ones(repository: Path) -> None:
    """The same mixture without learnt routing is worse by iAUC, also where a request shows items that training did not
    know, whose themes come from their categories. 95 % intervals over users."""
    sections = load_params(repository / "params.yaml")
    data, size = repository / "data/simulator", sections["train"].max_requests
    bench = open_bench(data, sections, None)
    learnt, random = (
        fitted(bench, Fit(name, GROUPS[group][name], size, 1), repository)["logits"].astype(np.float64)
        for group, name in (("core", "mos_din"), ("controls", "random_routing"))
    )
    spec = feature_spec(sections["history"], sections["model"], sections["statistics"])
    tables = prepare(data, spec, sections["split"], sections["labels"], sections["train"], 1).tables
    requests, request_of_row = bench.requests, bench.requests.request_of_row
    cold_N = tables.row_of_item[requests.item_index] == UNKNOWN_INDEX
    shows_cold_R = np.bincount(request_of_row[cold_N], minlength=len(requests)) > 0
    for chosen_R in (np.ones(len(requests), np.bool_), shows_cold_R):
        judged, rows_N = requests.take(chosen_R), chosen_R[request_of_row]
        gain = bootstrap_iauc([learnt[rows_N]], judged, 200, 1) - bootstrap_iauc([random[rows_N]], judged, 200, 1)
        assert np.percentile(gain, 2.5) > 0


def test_themes_beat_target_attention_and_popularity_in_a_small_world(tmp_path: Path) -> None:
    repository = clone(tmp_path)
    configure(LITTLE | SMALL_WORLD, repository / "params.yaml")
    run_stages(repository, STAGES)
    themes_win(repository)
    learnt_themes_beat_random_ones(repository)


@pytest.mark.slow
def test_themes_beat_target_attention_and_popularity_on_the_default_log(tmp_path: Path) -> None:
    repository = clone(tmp_path)
    few = (f"{key}={value}" for key, value in LITTLE.items())
    run(repository, "python", "-m", "orchestration.reproduce", *few, "evaluate")
    themes_win(repository)
    learnt_themes_beat_random_ones(repository)
