"""Scores of another recommender (impression_id, item_id, score) -> its figures beside ours on the same candidates.

A command: `make audit SCORES=<file>`. It writes a page and reports/<id>/foreign.json, nothing else.
"""
# pyright: reportAttributeAccessIssue=false

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pcsv
import pyarrow.parquet as pq

from contracts.errors import InputError
from contracts.params import load_params
from contracts.publish import write_json
from training.judging.slices import after_shift_at, requests_since_shift
from training.metrics import grouped_auc
from training.requests.reader import load_bare_requests, load_events

PAGE = "shift_foreign.html"  # beside our own page, which stays as it is
COLUMNS = ("impression_id", "item_id", "score")
OURS_BEGIN = 3  # columns of predictions.parquet: request_index, item_index, label, then one per model


def main() -> None:
    """Exits with 2 if the file cannot be judged."""
    parser = argparse.ArgumentParser(prog="make audit SCORES=<file>", description=__doc__)
    parser.add_argument("--scores", type=Path, required=True, help="CSV or Parquet: impression_id, item_id, score")
    scores = parser.parse_args().scores
    try:
        params = load_params()
        data = Path("data") / params["source"].id
        figures = judge(data, read_scores(scores), scores.stem, params["history"].session_gap_s)
        print(show(data, figures))
    except InputError as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)


def read_scores(path: Path) -> pa.Table:
    """The three columns. Raises InputError if one is missing or a candidate has two scores."""
    try:
        if path.suffix == ".parquet":
            table = pq.read_table(path)
        else:
            ids = pcsv.ConvertOptions(column_types={"impression_id": pa.string(), "item_id": pa.string()})
            table = pcsv.read_csv(path, convert_options=ids)
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"{path} cannot be read: {error}. Give a CSV or Parquet of {', '.join(COLUMNS)}.") from error
    if missing := [name for name in COLUMNS if name not in table.column_names]:
        raise InputError(f"{path} has no column {', '.join(missing)}; it has {', '.join(table.column_names)}.")
    try:
        kinds = pa.schema([("impression_id", pa.string()), ("item_id", pa.string()), ("score", pa.float64())])
        table = table.select(COLUMNS).cast(kinds)
    except pa.ArrowException as error:
        raise InputError(f"{path}: {error}. Give scores as numbers.") from error
    if not pc.all(pc.is_finite(table["score"])).as_py() or table["score"].null_count:
        raise InputError(f"{path}: a score is missing or not finite. Give one finite number per candidate.")
    if len(table.group_by(["impression_id", "item_id"]).aggregate([])) < len(table):
        raise InputError(f"{path}: a candidate (impression_id, item_id) has several scores. Give one per candidate.")
    return table


def judge(data: Path, scores: pa.Table, name: str, session_gap_s: float) -> dict[str, Any]:
    """AUC by requests since the shift, of every model and the file, over the test candidates that the file scores."""
    predicted = data / "predictions" / "predictions.parquet"
    if not predicted.exists():
        raise InputError(f"{predicted} does not exist: evaluate writes the test requests there. Run `make run`.")
    ours = pq.read_table(predicted)
    requests = load_bare_requests(data, load_events(data))
    since = requests_since_shift(data, requests, session_gap_s)
    matched = ours.append_column("score", _scores_of(data, ours, scores))
    judged = matched.filter(pc.is_valid(matched["score"]))
    if not len(judged):
        raise InputError(
            f"None of the {len(scores):,} scores matches one of the {len(ours):,} test candidates of {data.name}. Use "
            "the log's own impression_id and item_id."
        )
    place = np.searchsorted(requests.request_index, judged["request_index"].to_numpy())
    label = judged["label"].to_numpy()
    scores_of_model = {model: judged[model].to_numpy().astype(float) for model in ours.column_names[OURS_BEGIN:]}
    scores_of_model[f"{name} (yours)"] = judged["score"].to_numpy()
    rows = [
        {
            "model": model,
            "since_shift": number,
            "auc": _auc(values, label, mask[place]),
            "requests": _num_judged(place, mask),
        }
        for model, values in scores_of_model.items()
        for number, mask in after_shift_at(since).items()
    ]
    return {
        "file": name,
        "models": [row for row in rows if row["auc"] is not None],
        "auc": {model: _auc(values, label, np.ones(len(label), bool)) for model, values in scores_of_model.items()},
        "num_judged": len(judged),
        "num_candidates": len(ours),
        "num_scores": len(scores),
    }


def _num_judged(place: npt.NDArray[Any], mask: npt.NDArray[np.bool_]) -> int:
    """Number of requests in the mask with a scored candidate. place: [N] each candidate's request."""
    return len(np.unique(place[mask[place]]))


def show(data: Path, figures: dict[str, Any]) -> str:
    """Write the page and the figures beside it; returns a summary in words."""
    from features.pages.shift import write_shift  # imports Altair: slow, and only needed to write a page

    audit = json.loads((data / "shift_audit" / "audit.json").read_text(encoding="utf-8"))
    reports = data.parent.parent / "reports" / data.name
    summary = (
        f"{figures['file']}: {figures['num_judged']:,} of {figures['num_candidates']:,} test candidates have a score "
        f"in the file ({figures['num_scores'] - figures['num_judged']:,} scores match none); all models are judged on "
        "these. "
        "AUC over all of them: " + ", ".join(f"{model} {value:.3f}" for model, value in figures["auc"].items() if value)
    )
    write_json(reports / "foreign.json", figures)
    write_shift(reports / PAGE, audit, figures["models"], summary)
    return f"{summary}\nSee {reports / PAGE}"


def _scores_of(data: Path, ours: pa.Table, scores: pa.Table) -> pa.Array:
    """[N] the file's score for each row of our predictions; null where the file has none."""
    names = pq.read_table(data / "impressions" / "requests.parquet", columns=["request_index", "impression_id"])
    items = pq.read_table(data / "user_histories" / "vocabulary.parquet", columns=["item_index", "item_id"])
    rows = ours.select(["request_index", "item_index"]).append_column("row", pa.array(np.arange(len(ours))))
    rows = rows.join(
        names.cast(
            pa.schema([("request_index", ours.schema.field("request_index").type), ("impression_id", pa.string())])
        ),
        "request_index",
    )
    rows = rows.join(
        items.cast(pa.schema([("item_index", ours.schema.field("item_index").type), ("item_id", pa.string())])),
        "item_index",
    )
    rows = rows.join(scores, ["impression_id", "item_id"]).sort_by("row")
    return rows["score"].combine_chunks()


def _auc(score: npt.NDArray[Any], label: npt.NDArray[Any], mask: npt.NDArray[np.bool_]) -> float | None:
    value = grouped_auc(score[mask], label[mask], np.zeros(int(mask.sum()), np.int64)).mean
    return None if np.isnan(value) else float(value)


if __name__ == "__main__":
    main()
