"""Requests of the test part, asked of a real service as of their time -> how far its scores are from `evaluate`'s.

`python -m benchmarks.served_scores`: the service reads histories, counts and themes from the online store, `evaluate`
read them from the log's tables in batches. Exits with 1 if a score differs by more than TOLERANCE.
Writes benchmarks/results/served_scores.json.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx
import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

from benchmarks.serving import copied_live, server
from benchmarks.table import command, hardware
from contracts.publish import write_json
from features.live.open_tail import ENGINE_VARIABLE, LIVE_VARIABLE
from serving.answering.requests import to_iso
from serving.bundle.loaded import model_of
from serving.bundle.logged import LoggedRequest, RequestLog
from serving.bundle.manifest import read_manifest
from serving.locations import find_bundle

RESULT = Path(__file__).parent / "results" / "served_scores.json"
TOLERANCE = 1e-6


def main() -> None:
    """Print one JSON object, and write it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.served_scores", description=__doc__)
    parser.add_argument("--requests", type=int, default=2_000)
    parser.add_argument("--result", type=Path, default=RESULT)
    options = parser.parse_args()
    bundle = find_bundle()
    source, model = read_manifest(bundle).source, model_of(bundle)
    wanted = list(evaluated(Path("data") / source, model, options.requests))
    with TemporaryDirectory(prefix="served-scores-") as folder:
        own = {LIVE_VARIABLE: str(copied_live(Path(folder))), ENGINE_VARIABLE: "sqlite", "LEITMOTIF_WORKERS": "1"}
        with server(**own) as client:
            apart = np.concatenate([np.abs(served(client, request) - score) for request, score in wanted])
    report = {
        "requests": len(wanted),
        "scores": len(apart),
        "largest_difference": float(apart.max()),
        "equal": int((apart == 0).sum()),
        "setting": {
            "command": command(),
            "at": datetime.now(UTC).isoformat(timespec="minutes"),
            "hardware": hardware(),
            "model": f"{model} {read_manifest(bundle).model_version}",
        },
    }
    write_json(options.result, report)
    print(json.dumps(report, indent=2))
    sys.exit(int(report["largest_difference"] > TOLERANCE))


def evaluated(data: Path, model: str, number: int) -> Iterator[tuple[LoggedRequest, npt.NDArray[np.float64]]]:
    """Test requests, evenly spaced in time, and the probabilities that `evaluate` gave their candidates."""
    predictions = pq.read_table(data / "predictions", columns=["request_index", model])
    index, logit = (predictions[name].to_numpy() for name in predictions.column_names)
    known = np.unique(index)
    chosen = known[np.unique(np.linspace(0, len(known) - 1, min(number, len(known))).round().astype(np.int64))]
    for request in RequestLog.open(data).read(chosen):
        yield request, 1 / (1 + np.exp(-logit[index == request.index].astype(np.float64)))


def served(client: httpx.Client, request: LoggedRequest) -> npt.NDArray[np.float64]:
    """The scores of a request's candidates over HTTP, as of its time."""
    body: dict[str, Any] = {
        "user_id": request.user_id,
        "candidates": list(request.candidates),
        "at": to_iso(request.at),
        "context": request.context._asdict(),
    }
    items = client.post("/rank", json=body).raise_for_status().json()["items"]
    score = {item["item_id"]: item["score"] for item in items}
    return np.array([score[item_id] for item_id in request.candidates])


if __name__ == "__main__":
    main()
