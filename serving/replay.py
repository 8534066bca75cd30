"""A request log -> the same rankings by the bundle that stands here, and how many scores came out the same.

`python -m serving.replay <folder>`: exits with 3 where a score of the same model and snapshot differs. Each request is
ranked as of the moment at which it was answered: what came later changes nothing.
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
"""Of a probability: a list of /recommend is ranked again without the candidates that were not answered, and a batch of
another size rounds otherwise. /rank gives the same to the last bit."""


def again(predictor: Predictor, line: dict[str, Any]) -> str:
    """What becomes of one line."""
    if line["store_away"]:
        return NOT_KNOWN
    served = (predictor.bundle.manifest.model_version, predictor.store.snapshot_id)
    if served != (line["model_version"], line["snapshot_id"]):
        return ANOTHER_MODEL
    scores = rescore(predictor, line)
    return SAME if all(abs(scores[item] - score) <= TOLERANCE for item, score in line["scores"].items()) else OTHER


def rescore(predictor: Predictor, line: dict[str, Any]) -> dict[str, float]:
    """The score of each item of a line by a predictor, of another model too."""
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
    """How many lines became what."""
    return Counter(again(predictor, line) for line in lines)


def main() -> None:
    """Print the numbers."""
    parser = argparse.ArgumentParser(prog="python -m serving.replay", description=__doc__)
    parser.add_argument("folder", type=Path)
    options = parser.parse_args()
    try:
        if not options.folder.is_dir():
            raise InputError(f"{options.folder} is no folder. Name the one that LEITMOTIF_REQUEST_LOG named.")
        found = replay(open_here(), read_log(options.folder))
    except InputError as error:
        print(f"No replay: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    print("; ".join(f"{name}: {number:,}" for name, number in sorted(found.items())) or "The log holds no ranking.")
    sys.exit(3 if found[OTHER] else 0)


if __name__ == "__main__":
    main()
