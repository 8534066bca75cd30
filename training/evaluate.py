"""Weights and the requests after split.test -> metrics beside DIN and popularity, slices, predictions and a verdict.

Reads what train read, weights, truth and feature_snapshot/parity.json; writes metrics and predictions. The verdict
is in the report and in metrics/verdict.json; a failed one ends this stage well: package is what refuses.
"""

import csv
import hashlib
import json
import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from contracts.errors import InputError
from contracts.publish import publish, write_json
from contracts.schema import FIRST_INDEX, UNKNOWN_INDEX
from contracts.stage import Report, main
from features.counters import Counters
from features.encode import FeatureSpec
from features.params import LabelParams, SplitParams
from training.baselines import fit_logistic, popularity, sigmoid
from training.catalogue import Vocabulary, load_counters, load_vocabulary
from training.dataset import make_dataset
from training.measure import Scored, differences, measure, measure_slices
from training.metrics import calibration, grouped_auc, normalised_mutual_information
from training.model.build import GRAPH_MODELS, Model, load_model
from training.model.mixture import MixtureOfSequence
from training.params import EvaluateParams
from training.requests import Requests, cut_times, iso, load_events, load_requests, log_end
from training.scoring import score_requests
from training.slices import NO_THEME, requests_since_shift, slice_masks, true_item_themes
from training.verdict import judge

log = logging.getLogger("leitmotif")

DIGITS = 6
COMPARED_WITH = ("din", "popularity")

PREDICTIONS = pa.schema(
    [
        pa.field("request_index", pa.int32(), nullable=False),
        pa.field("item_index", pa.int32(), nullable=False),
        pa.field("label", pa.float32(), nullable=False),
        pa.field("mos", pa.float32(), nullable=False),  # logit
        pa.field("din", pa.float32(), nullable=False),  # logit
        pa.field("popularity", pa.float32(), nullable=False),  # clicks
    ]
)
"""predictions/predictions.parquet: the test part in the order of impressions, sorted by request_index."""


@dataclass(frozen=True)
class Tested:
    """The test part and what every model says of it."""

    requests: Requests
    num_label_unknown: int  # requests at the log's end that are not judged
    since_shift: npt.NDArray[np.int64]  # [R]
    models: dict[str, Model]
    scored: dict[str, Scored]


def run(data: Path, evaluate: EvaluateParams, labels: LabelParams, seed: int, split: SplitParams) -> Report:
    """Raises InputError where the weights were fitted on requests of the test part."""
    description = json.loads((data / "weights" / "model.json").read_text(encoding="utf-8"))
    torch.set_num_threads(description["num_threads"])
    vocabulary = load_vocabulary(data)
    tested = score_all(data, vocabulary, description, split, labels, evaluate, seed)
    requests, scored, mos = tested.requests, tested.scored, tested.models["mos"]
    models = {name: measure(values, requests) for name, values in scored.items()}
    masks = slice_masks(requests, tested.since_shift, mos.catalogue.row_of_N.numpy())
    report = plain(
        {
            "num_requests": len(requests),
            "num_impressions": len(requests.label),
            "num_users": len(np.unique(requests.user_index)),
            "num_requests_label_unknown": tested.num_label_unknown,
            "num_requests_of_one_class": grouped_auc(
                scored["mos"].score, requests.label, requests.request_of_row
            ).num_left_out,
            "click_share": float(requests.label.mean()) if len(requests) else math.nan,
            "models": models,
            "differences": differences(scored, requests, "mos", COMPARED_WITH, evaluate.num_bootstrap, seed),
            "slices": measure_slices(scored, requests, masks),
            "theme_recovery_nmi": theme_recovery(data, vocabulary, mos),
            "verdict": judge(models, len(requests), _parity(data), evaluate),
            "test_data_hash": hash_test(requests),
        }
    )
    with publish(data, "metrics", "predictions") as staging:
        write_metrics(staging / "metrics", report, tested)
        write_predictions(staging / "predictions" / "predictions.parquet", requests, scored)
    for name, figures in report["models"].items():
        log.info("%s: %s", name, ", ".join(f"{figure} {value}" for figure, value in figures.items()))
    return report


def score_all(
    data: Path,
    vocabulary: Vocabulary,
    description: dict[str, Any],
    split: SplitParams,
    labels: LabelParams,
    evaluate: EvaluateParams,
    seed: int,
) -> Tested:
    """Score the test part by every model and baseline."""
    spec = FeatureSpec.from_json(description["feature_spec"])
    events = load_events(data)
    requests = load_requests(data, events)
    cuts = cut_times(split, labels, requests.at, log_end(requests, events))
    if description["chosen_before_us"] > cuts.test_at:
        raise InputError(
            f"The weights were chosen on requests up to {iso(description['chosen_before_us'])}, but split.test is "
            f"{iso(cuts.test_at)}: the test would not be new to them. Run train again (`dvc repro`)."
        )
    since_shift = requests_since_shift(data, requests, spec.session_gap_s)[cuts.holds(requests, "test")]
    test, validation = cuts.part(requests, "test"), cuts.part(requests, "validation")
    counters = load_counters(data, vocabulary)
    dataset = make_dataset(spec, events, test, counters)
    models = {name: load_model(name, data / "weights" / f"{name}.safetensors", description) for name in GRAPH_MODELS}
    logits = {name: score_requests(name, model, dataset) for name, model in models.items()}
    scored = {name: Scored(values, sigmoid(values)) for name, values in logits.items()}
    scored |= score_baselines(test, validation, counters, spec, evaluate, seed)
    return Tested(test, cuts.num_label_unknown(requests, "test"), since_shift, models, scored)


def score_baselines(
    test: Requests, validation: Requests, counters: Counters, spec: FeatureSpec, evaluate: EvaluateParams, seed: int
) -> dict[str, Scored]:
    """Popularity and chance. Their probabilities come from a logistic curve fitted on the validation part."""
    window = evaluate.popularity_window_s
    before, now = (popularity(part, counters, spec.clicks_lag_s, window) for part in (validation, test))
    intercept, slope = fit_logistic(np.log1p(before), validation.label)
    base, _ = fit_logistic(np.zeros(len(before)), validation.label)
    return {
        "popularity": Scored(now, sigmoid(intercept + slope * np.log1p(now))),
        "random": Scored(np.random.default_rng(seed).random(len(now)), np.full(len(now), sigmoid(np.array(base)))),
    }


def theme_recovery(data: Path, vocabulary: Vocabulary, model: Model) -> float:
    """Normalised mutual information of an item's top theme and its true one; nan where the source has no truth."""
    truth = true_item_themes(data, vocabulary.item_ids)
    if truth is None or not isinstance(model, MixtureOfSequence):
        return math.nan
    item_index = torch.arange(FIRST_INDEX, vocabulary.num_items)
    with torch.inference_mode():
        routed = model.themes(item_index).argmax(dim=1).numpy()
    trained = model.catalogue.row_of_N[item_index].numpy() != UNKNOWN_INDEX
    trained &= truth != NO_THEME
    return normalised_mutual_information(routed[trained], truth[trained]) if trained.any() else math.nan


def hash_test(requests: Requests) -> str:
    """Names the test part whatever the model: two models are compared only where this is equal."""
    digest = hashlib.sha256()
    for column, kind in (
        (requests.request_of_row, np.int64),
        (requests.item_index, np.int64),
        (requests.label, np.float32),
    ):
        digest.update(np.ascontiguousarray(column, kind).tobytes())
    digest.update(np.ascontiguousarray(requests.at, np.int64).tobytes())
    return digest.hexdigest()


def write_metrics(folder: Path, report: Mapping[str, Any], tested: Tested) -> None:
    """models.csv, slices.csv and calibration.csv for plots; verdict.json, what package reads."""
    _write_csv(folder / "models.csv", [{"model": name} | row for name, row in report["models"].items()])
    _write_csv(folder / "slices.csv", [{"slice": name} | row for name, row in report["slices"].items()])
    points = []
    for name, scored in tested.scored.items():
        if len(tested.requests) and name != "random":
            parts = calibration(scored.probability, tested.requests.label)
            for predicted, observed, rows in zip(parts.predicted, parts.observed, parts.rows, strict=True):
                points.append(plain({"model": name, "predicted": predicted, "observed": observed, "rows": rows}))
    _write_csv(folder / "calibration.csv", points or [{"model": "", "predicted": "", "observed": "", "rows": ""}])
    write_json(folder / "verdict.json", report)


def write_predictions(path: Path, requests: Requests, scored: Mapping[str, Scored]) -> None:
    """One row a candidate, by request_index and then as in impressions."""
    order = np.argsort(requests.request_index[requests.request_of_row], kind="stable")
    columns = {
        "request_index": requests.request_index[requests.request_of_row],
        "item_index": requests.item_index,
        "label": requests.label,
        **{name: scored[name].score for name in ("mos", "din", "popularity")},
    }
    arrays = [pa.array(columns[field.name][order]).cast(field.type) for field in PREDICTIONS]
    pq.write_table(pa.Table.from_arrays(arrays, schema=PREDICTIONS), path, compression="zstd")


def plain(value: Any) -> Any:
    """JSON values: numbers rounded, nan as null."""
    if isinstance(value, Mapping):
        return {key: plain(inner) for key, inner in value.items()}
    if isinstance(value, float | np.floating):
        return round(float(value), DIGITS) if math.isfinite(value) else None
    return int(value) if isinstance(value, np.integer) else value


def _parity(data: Path) -> dict[str, Any] | None:
    path = data / "feature_snapshot" / "parity.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def _write_csv(path: Path, rows: list[dict[str, Any]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as handle:
        writer = csv.DictWriter(handle, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main(run)
