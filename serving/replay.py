"""A request log -> the same rankings by the current bundle, and how many have the same scores.

`python -m serving.replay <folder>` exits with 3 if scores of the same model and snapshot differ. Each request is ranked
as of the time at which it was answered, so later events do not matter.
"""

import argparse
import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from contracts.errors import InputError
from serving.answering.predictor import Predictor, open_here
from serving.answering.requests import RankRequest
from serving.watching.request_log import read_log

SAME, OTHER, ANOTHER_MODEL, NOT_KNOWN = "same scores", "other scores", "another model or load", "store was away"
TOLERANCE = 1e-6
"""Largest difference of a probability. Rankings of /recommend are repeated without the candidates that were not
returned, and batches of another size round differently. /rank reproduces every bit."""


def again(predictor: Predictor, line: dict[str, Any]) -> str:
    """The outcome of one line."""
    if line["store_away"]:
        return NOT_KNOWN
    served = (predictor.bundle.manifest.model_version, predictor.store.snapshot_id)
    if served != (line["model_version"], line["snapshot_id"]):
        return ANOTHER_MODEL
    scores = rescore(predictor, line)
    return SAME if all(abs(scores[item] - score) <= TOLERANCE for item, score in line["scores"].items()) else OTHER


def rescore(predictor: Predictor, line: dict[str, Any]) -> dict[str, float]:
    """Item -> score of a line by a predictor, which may have another model."""
    if not line["scores"]:
        return {}
    asked = line["asked"]
    request = RankRequest(
        user_id=asked["user_id"],
        candidates=asked.get("candidates") or list(line["scores"]),
        at=line["at"],
        context=asked.get("context"),
        suppose=asked.get("suppose") or [],
    )
    return {item.item_id: item.score for item in predictor.answer(request).reply.items}


def replay(predictor: Predictor, lines: Iterable[dict[str, Any]]) -> Counter[str]:
    """Outcome -> number of lines."""
    return Counter(again(predictor, line) for line in lines)


def main() -> None:
    """Print the number of lines by outcome."""
    parser = argparse.ArgumentParser(prog="python -m serving.replay", description=__doc__)
    parser.add_argument("folder", type=Path)
    options = parser.parse_args()
    try:
        if not options.folder.is_dir():
            raise InputError(f"{options.folder} is not a folder. Name the service's LEITMOTIF_REQUEST_LOG.")
        found = replay(open_here(), read_log(options.folder))
    except InputError as error:
        print(f"No replay: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    print("; ".join(f"{name}: {number:,}" for name, number in sorted(found.items())) or "The log has no rankings.")
    sys.exit(3 if found[OTHER] else 0)


if __name__ == "__main__":
    main()
