"""The report and the scores of the test part -> the files of metrics/ and predictions/, for plots and package."""

import csv
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from contracts.publish import write_json
from training.judging.measure import Scored
from training.judging.slices import HISTORY_EDGES, after_shift_at
from training.metrics import calibration, grouped_auc
from training.requests.reader import Requests

DIGITS = 6
UNRANKED = "random"
"""The baseline with constant scores, which gets no curve."""


def write_metrics(
    folder: Path,
    report: Mapping[str, Any],
    requests: Requests,
    since_shift: npt.NDArray[np.int64],
    scored: Mapping[str, Scored],
) -> None:
    """models.csv, slices.csv and the curves, which `dvc plots` draws; verdict.json, what package reads."""
    _write_csv(folder / "models.csv", [{"model": name} | row for name, row in report["models"].items()])
    _write_csv(folder / "slices.csv", [{"slice": name} | row for name, row in report["slices"].items()])
    drawn = {name: each for name, each in scored.items() if name != UNRANKED}
    points = list(_calibration(drawn, requests)) or [{"model": "", "predicted": "", "observed": "", "rows": ""}]
    _write_csv(folder / "calibration.csv", points)
    _write_csv(folder / "by_history.csv", _by_history(report["slices"], list(drawn)))
    _write_csv(folder / "by_shift.csv", _by_shift(drawn, requests, since_shift))
    write_json(folder / "verdict.json", report)


def write_predictions(path: Path, requests: Requests, scored: Mapping[str, Scored], names: Sequence[str]) -> None:
    """One row per candidate, by request_index and then as in impressions, with each model's score."""
    order = np.argsort(requests.request_index[requests.request_of_row], kind="stable")
    columns = {
        "request_index": requests.request_index[requests.request_of_row],
        "item_index": requests.item_index,
        "label": requests.label,
        **{name: scored[name].score for name in names},
    }
    schema = predictions_schema(names)
    arrays = [pa.array(columns[field.name][order]).cast(field.type) for field in schema]
    pq.write_table(pa.Table.from_arrays(arrays, schema=schema), path, compression="zstd")


def predictions_schema(names: Sequence[str]) -> pa.Schema:
    """Schema of predictions/predictions.parquet: the test part by request_index, then in the order of impressions.

    names: the models. Scores of fitted models are logits, those of popularity numbers of clicks.
    """
    return pa.schema(
        [
            pa.field("request_index", pa.int32(), nullable=False),
            pa.field("item_index", pa.int32(), nullable=False),
            pa.field("label", pa.float32(), nullable=False),
            *(pa.field(name, pa.float32(), nullable=False) for name in names),
        ]
    )


def plain(value: Any) -> Any:
    """The same as JSON values: numbers rounded, nan as null."""
    if isinstance(value, Mapping):
        return {key: plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inner) for inner in value]
    if isinstance(value, float | np.floating):
        return round(float(value), DIGITS) if math.isfinite(value) else None
    return int(value) if isinstance(value, np.integer) else value


def _calibration(scored: Mapping[str, Scored], requests: Requests) -> Iterator[dict[str, Any]]:
    for name, each in scored.items() if len(requests) else ():
        parts = calibration(each.probability, requests.label)
        for predicted, observed, rows in zip(parts.predicted, parts.observed, parts.rows, strict=True):
            yield plain({"model": name, "predicted": predicted, "observed": observed, "rows": rows})


def _by_history(slices: Mapping[str, Mapping[str, Any]], models: Sequence[str]) -> list[dict[str, Any]]:
    """One point per model and history slice: AUC by the slice's smallest number of events."""
    parts = [name for name in slices if name.startswith("history_")]
    return [
        {"model": model, "history": low, "auc": slices[name][f"{model}_auc"], "requests": slices[name]["requests"]}
        for model in models
        for low, name in zip(HISTORY_EDGES, parts, strict=True)
    ]


def _by_shift(
    scored: Mapping[str, Scored], requests: Requests, since_shift: npt.NDArray[np.int64]
) -> list[dict[str, Any]]:
    """One point per model and number of requests since the last shift; the last point includes all later requests."""
    row, points = requests.request_of_row, []
    for since, part in after_shift_at(since_shift).items():
        mask = part[row]
        for name, each in scored.items():
            value = grouped_auc(each.score[mask], requests.label[mask], np.zeros(int(mask.sum()), np.int64)).mean
            within = grouped_auc(each.score[mask], requests.label[mask], row[mask]).mean
            points.append({"model": name, "since_shift": since, "auc": value, "iauc": within, "requests": part.sum()})
    return sorted(plain(points), key=lambda point: (list(scored).index(point["model"]), point["since_shift"]))


def _write_csv(path: Path, rows: list[dict[str, Any]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as handle:
        writer = csv.DictWriter(handle, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
