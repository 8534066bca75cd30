"""Models on EB-NeRD's requests of some users: later events, a later calendar and other item ids change nothing."""

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from contracts.schema import FIRST_INDEX
from contracts.stage import parameters
from features.encoding.encode import FeatureSpec
from orchestration.configure import flatten
from tests import ebnerd_log
from tests.clones import real_data
from training import evaluate, train
from training.judging.scoring import score_requests
from training.model.build import GRAPH_MODELS, load_model
from training.requests.batches import make_dataset
from training.requests.catalogue import load_counters, load_vocabulary
from training.requests.reader import load_events, load_requests

pytestmark = [pytest.mark.xdist_group("ebnerd_models"), pytest.mark.slow]

ONE_IN = 8
"""Users kept."""
SMALL = {
    "model__history_length": 50,
    "model__theme_capacity": 16,
    "train__router_steps": 40,
    "train__epochs": 2,
    "statistics__coclick_rank": 16,
    "train__num_threads": 1,
    "evaluate__num_bootstrap": 20,
    "evaluate__min_requests": 100_000,
}
MADE = ("weights", "training_record", "metrics", "predictions")
DAYS = 5
SEEDS = (1, 2, 3)
T_99 = 4.604
"""99 % of Student's t with 4 degrees of freedom lies within: two means of three seeds each."""
MOST_NOISE = {"auc": 0.02, "iauc": 0.05}
"""Figure -> noise beyond which the test would show nothing."""
LATER_US = int(datetime(2023, 5, 29, tzinfo=UTC).timestamp()) * 1_000_000

Sections = dict[str, Any]
Report = dict[str, Any]
Change = Callable[[pa.Table], pa.Table]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("real_log")
    ebnerd_log.of_some_users(real_data("ebnerd-demo"), folder / "raw", ONE_IN)
    return folder


@pytest.fixture(scope="module")
def sections(root: Path) -> Sections:
    return ebnerd_log.sections_of(root / "raw", root / "params", **SMALL)


@pytest.fixture(scope="module")
def trained(root: Path, sections: Sections) -> tuple[Path, Report]:
    """The log's folder after train and evaluate, and what evaluate said."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        data = ebnerd_log.make(root / "data", sections)
        return data, fit(data, sections)


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def fit(data: Path, sections: Sections) -> Report:
    """Train and evaluate; what evaluate said."""
    for run in (train.run, evaluate.run):
        report = run(data, **{name: sections[name] for name in parameters(run)})
    return dict(report)


def beside(data: Path, target: Path) -> Path:
    """The same log without a trained model."""
    target.mkdir()
    for path in data.iterdir():
        if path.name not in MADE:
            (target / path.name).symlink_to(path, target_is_directory=True)
    return target


def with_events(data: Path, target: Path, sections: Sections, change: Change) -> Path:
    """The same catalogue and other interactions, counted anew."""
    target.mkdir()
    for name in ("items", "contexts", "rejected"):
        (target / name).symlink_to(data / name, target_is_directory=True)
    (target / "interactions").mkdir()
    rows = pa.concat_tables(pq.read_table(path) for path in sorted((data / "interactions").iterdir()))
    pq.write_table(change(rows), target / "interactions" / "2023.parquet")
    return ebnerd_log.count(target, sections)


def before(rows: pa.Table) -> pa.Table:
    return rows.filter(pc.less(rows["occurred_at"].cast(pa.int64()), LATER_US))


def twice_as_long(rows: pa.Table) -> pa.Table:
    """Every impression once more, from 1 us after the log's end on, its clicks drawn anew."""
    more = rows.filter(pc.is_valid(rows["impression_id"]))
    span = pc.subtract(pc.max(rows["occurred_at"]), pc.min(more["occurred_at"]))
    columns = {
        "event_id": pc.binary_join_element_wise(more["event_id"], "later", "-"),
        "impression_id": pc.binary_join_element_wise(more["impression_id"], "later", "-"),
        "occurred_at": pc.add(pc.add(more["occurred_at"], span), pa.scalar(timedelta(microseconds=1))),
        "label": pa.array((np.random.default_rng(7).random(len(more)) < 0.2).astype(np.float32)),
    }
    for name, values in columns.items():
        more = more.set_column(more.schema.get_field_index(name), rows.schema.field(name), values)
    return pa.concat_tables([rows, more])


def score(data: Path, weights: Path, upto_us: int) -> tuple[list[Any], dict[str, npt.NDArray[np.floating]]]:
    """The requests before a time, by their names and the items', and the logits that fixed weights give them."""
    description = json.loads((weights / "model.json").read_text())
    spec = FeatureSpec.from_json(description["feature_spec"])
    events, vocabulary = load_events(data), load_vocabulary(data)
    requests = load_requests(data, events)
    requests = requests.take(requests.at < upto_us)
    names = pq.read_table(data / "impressions" / "requests.parquet")["impression_id"]
    items = pa.array(vocabulary.item_ids).take(pa.array(requests.item_index - FIRST_INDEX))
    asked = [names.take(pa.array(requests.request_index)).to_pylist(), items.to_pylist(), requests.at.tolist()]
    dataset = make_dataset(spec, events, requests, load_counters(data, vocabulary))
    models = {name: load_model(name, weights / f"{name}.safetensors", description) for name in GRAPH_MODELS}
    return asked, {name: score_requests(name, model, dataset) for name, model in models.items()}


@pytest.mark.parametrize(
    ("change", "upto_us"), [(before, LATER_US), (twice_as_long, None)], ids=["removed", "appended"]
)
def test_later_events_change_no_logit_of_an_earlier_request(
    trained: tuple[Path, Report], sections: Sections, tmp_path: Path, change: Change, upto_us: int | None
) -> None:
    data, _ = trained
    other = with_events(data, tmp_path / "data", sections, change)
    whole = load_requests(data, load_events(data))
    upto_us = upto_us or int(whole.at.max()) + 1
    num_earlier = int((whole.at < upto_us).sum())
    assert num_earlier > 4_000
    assert len(load_requests(other, load_events(other))) != len(whole)
    (asked, logits), (again, others) = (score(each, data / "weights", upto_us) for each in (data, other))
    assert len(asked[0]) == num_earlier
    assert asked == again
    for name, values in logits.items():
        assert values.std() > 0
        np.testing.assert_array_equal(values, others[name], name)


def test_events_after_the_test_has_begun_change_no_weight(
    trained: tuple[Path, Report], sections: Sections, tmp_path: Path
) -> None:
    data, report = trained
    other = with_events(data, tmp_path / "data", sections, before)
    (other / "truth").mkdir()
    again = fit(other, sections)
    assert 0 < again["num_requests"] < report["num_requests"]
    for path in sorted((data / "weights").iterdir()):
        assert (other / "weights" / path.name).read_bytes() == path.read_bytes(), path.name


def test_whole_days_later_every_metric_is_the_same(root: Path, trained: tuple[Path, Report], tmp_path: Path) -> None:
    raw = ebnerd_log.shifted(root / "raw", tmp_path / "raw", DAYS)
    now = ebnerd_log.sections_of(root / "raw", tmp_path / "now")["split"]
    moments = {f"split__{name}": (at + timedelta(days=DAYS)).isoformat() for name, at in now.model_dump().items()}
    sections = ebnerd_log.sections_of(raw, tmp_path / "params", **SMALL, **moments)
    report = fit(ebnerd_log.make(tmp_path / "data", sections), sections)
    for part in ("models", "slices", "differences"):
        assert flatten(report[part]) == pytest.approx(flatten(trained[1][part]), abs=1e-6), part
    assert report["num_requests"] == trained[1]["num_requests"]
    assert report["test_data_hash"] != trained[1]["test_data_hash"]


def test_other_item_ids_leave_every_auc_within_the_noise_of_seeds(
    root: Path, trained: tuple[Path, Report], sections: Sections, tmp_path: Path
) -> None:
    raw = ebnerd_log.renamed(root / "raw", tmp_path / "raw", seed=9)
    renamed = ebnerd_log.sections_of(raw, tmp_path / "params", **SMALL)
    data = [beside(trained[0], tmp_path / "data"), ebnerd_log.make(tmp_path / "renamed", renamed)]
    items = [load_requests(each, load_events(each)).item_index for each in data]
    assert (items[0] != items[1]).mean() > 0.99
    assert sections["seed"] == SEEDS[0]
    models = [[trained[1]["models"]], []]
    for each, fitted in zip(data, models, strict=True):
        fitted += [fit(each, sections | {"seed": seed})["models"] for seed in SEEDS[len(fitted) :]]
    for figure, most in MOST_NOISE.items():
        assert models[0][0]["popularity"][figure] == models[1][0]["popularity"][figure]
        for name in GRAPH_MODELS:
            of_seeds = np.array([[report[name][figure] for report in reports] for reports in models])  # [2, seeds]
            noise = T_99 * np.sqrt(of_seeds.var(axis=1, ddof=1).mean() * 2 / len(SEEDS))
            difference = abs(np.subtract(*of_seeds.mean(axis=1)))
            print(f"{name} {figure}: difference {difference:.4f}, noise {noise:.4f}")
            assert difference <= noise < most, (name, figure, of_seeds)
