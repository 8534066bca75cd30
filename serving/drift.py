"""A request log -> drift of served requests from the model's test requests: a page, drift.json, an exit code.

`make drift LOG=<folder>` computes features and scores of /rank again as of the time of each request, and compares their
distributions with those of the test requests (profile.json of the bundle). Exits with 3 if a figure has shifted.
"""

import argparse
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import ValidationError

from contracts.errors import InputError
from contracts.publish import write_json
from serving.answering.predictor import Predictor, context_of, open_here
from serving.answering.requests import RankRequest, to_microseconds
from serving.bundle.loaded import PROFILE, read_json, reading
from serving.watching.request_log import read_log
from training.judging.profile import shares, stability

STEADY_BELOW, SHIFTED_FROM = 0.1, 0.25
"""The customary limits of the population stability index."""
LEAST_REQUESTS = 100
MOST_REQUESTS = 2_000
SHIFTED_EXIT = 3
GOOD, WARNS, NOT_JUDGED = "good", "warns", ""
ROUTE = "/rank"
NOT_TAKEN = "not a valid request for this bundle"

Figures = dict[str, npt.NDArray[Any]]


def main() -> None:
    """Write reports/<id>/drift.html and drift.json; print the verdict."""
    parser = argparse.ArgumentParser(prog="make drift LOG=<folder>", description=__doc__)
    parser.add_argument("folder", type=Path, help="the service's LEITMOTIF_REQUEST_LOG")
    folder = parser.parse_args().folder
    try:
        if not any(folder.glob("requests-*.jsonl*")):
            raise InputError(f"{folder} has no request log. Serve with LEITMOTIF_REQUEST_LOG={folder} to write one.")
        predictor = open_here()
        report = drift(predictor, read_log(folder), read_profile(predictor.bundle.path))
    except InputError as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)
    sys.exit(tell(report, Path("reports") / report["log"]))


def read_profile(bundle: Path) -> dict[str, Any]:
    """The bundle's profile.json. Raises InputError if an older version packaged it without one."""
    if not (bundle / PROFILE).exists():
        raise InputError(f"{bundle} has no {PROFILE}: it was packaged by an older version. `make run` makes one.")
    with reading(bundle / PROFILE):
        profile = read_json(bundle / PROFILE)
        if any(len(each["shares"]) != len(each["cuts"]) + 1 for each in profile["figures"].values()):
            raise ValueError("the number of a figure's shares is not that of its cuts plus one")
        int(profile["num_requests"])
    return profile


def drift(predictor: Predictor, lines: Iterable[dict[str, Any]], expected: Mapping[str, Any]) -> dict[str, Any]:
    """The content of drift.json. lines: from a request log. expected: the profile of the test requests."""
    left_out: Counter[str] = Counter()
    kept = [asked for line in lines if (asked := _asked(line, left_out)) is not None]
    if len(kept) > MOST_REQUESTS:
        left_out["beyond the limit, evenly spaced"] = len(kept) - MOST_REQUESTS
        kept = [kept[place] for place in np.linspace(0, len(kept) - 1, MOST_REQUESTS).round().astype(int)]
    found, num = served_figures(predictor, kept, left_out)
    figures = compare(expected, found, num)
    state, sentence = judge(figures, num)
    times = sorted(str(request.at) for request in kept)
    return {
        "log": predictor.bundle.manifest.source,
        "model_version": predictor.bundle.manifest.model_version,
        "num_requests": num,
        "num_expected": expected["num_requests"],
        "from": times[0][:16].replace("T", " ") if times else None,
        "to": times[-1][:16].replace("T", " ") if times else None,
        "left_out": dict(left_out),
        "figures": figures,
        "steady_below": STEADY_BELOW,
        "shifted_from": SHIFTED_FROM,
        "state": state,
        "sentence": sentence,
    }


def served_figures(
    predictor: Predictor, requests: Sequence[RankRequest], left_out: Counter[str]
) -> tuple[Figures, int]:
    """(figures as in profile.json, number of requests) of requests as of their times. Invalid ones are counted."""
    spec = predictor.bundle.scorer.spec
    kept: dict[str, list[Any]] = {"score": [], "history_length": [], "history_age_h": [], "candidates": []}
    scalars = [np.zeros((0, len(spec.scalars)), np.float32)]
    for request in requests:
        try:
            reply = predictor.answer(request).reply
        except ValidationError:  # a limit was lowered since
            left_out[NOT_TAKEN] += 1
            continue
        at = to_microseconds(request.at)
        events = predictor.events(request.user_id, request.suppose, at)
        candidates = list(dict.fromkeys(request.candidates))
        scalars.append(predictor.scalars(request.user_id, events, candidates, at, context_of(request)))
        kept["score"].append([item.score for item in reply.items])
        kept["history_length"].append([min(reply.history.length, spec.history_length)])
        newest = reply.history.newest_event_at
        kept["history_age_h"].append([] if newest is None else [(at - to_microseconds(newest)) / 3.6e9])
        kept["candidates"].append([len(candidates)])
    figures: Figures = {name: np.concatenate([np.zeros(0), *map(np.asarray, parts)]) for name, parts in kept.items()}
    together = np.concatenate(scalars)
    return figures | {name: together[:, place] for place, name in enumerate(spec.scalars)}, len(scalars) - 1


def compare(expected: Mapping[str, Any], found: Figures, num_requests: int) -> list[dict[str, Any]]:
    """The population stability index and state of every figure that both have."""
    compared = []
    for name, before in expected["figures"].items():
        if name not in found or not len(found[name]) or not before["num"]:
            continue
        now = shares(found[name], np.asarray(before["cuts"]))
        index = stability(np.asarray(before["shares"]), now, expected["num_requests"], num_requests)
        state = "steady" if index < STEADY_BELOW else "moved" if index < SHIFTED_FROM else "shifted"
        compared.append(
            {
                "name": name,
                "psi": round(index, 4),
                "state": state,
                "num": len(found[name]),
                "cuts": before["cuts"],
                "expected": before["shares"],
                "found": now.tolist(),
            }
        )
    return compared


def judge(figures: Sequence[Mapping[str, Any]], num_requests: int) -> tuple[str, str]:
    """(state, one sentence)."""
    if num_requests < LEAST_REQUESTS:
        return NOT_JUDGED, f"{num_requests:,} rankings are too few to judge: {LEAST_REQUESTS} are needed."
    shifted = [each["name"] for each in sorted(figures, key=lambda each: -each["psi"]) if each["state"] == "shifted"]
    moved = sum(each["state"] == "moved" for each in figures)
    steady = sum(each["state"] == "steady" for each in figures)
    if not shifted:
        also = f", {moved} moved a little" if moved else ""
        return GOOD, f"Yes: {steady} of {len(figures)} figures are steady{also}, none has shifted."
    return WARNS, (
        f"No: {len(shifted)} of {len(figures)} figures have shifted, most of all {', '.join(shifted[:3])}. "
        "The traffic differs from the log. If the change is lasting, absorb live events and run the pipeline again."
    )


def tell(report: Mapping[str, Any], reports: Path) -> int:
    """Write both files and print the verdict; returns the exit code."""
    from features.pages.drift import write_drift  # imports Altair, so only where a page is written

    write_json(reports / "drift.json", report)
    write_drift(reports / "drift.html", report)
    print(f"{report['sentence']}\nSee {reports / 'drift.html'}")
    return SHIFTED_EXIT if report["state"] == WARNS else 0


def _asked(line: Any, left_out: Counter[str]) -> RankRequest | None:
    """The request of a line as of its time; None if it is left out, which is counted with the reason."""
    try:
        if line["route"] != ROUTE:
            why = f"of {line['route']}: its candidates are retrieved, unlike those of the log"
        elif line["store_away"]:
            why = "while the online store did not answer"
        elif line["asked"].get("suppose"):
            why = "with supposed clicks"
        else:
            return RankRequest(**{**line["asked"], "at": line["at"], "k": None, "explain": False})
    except (ValidationError, LookupError, TypeError, AttributeError):
        why = NOT_TAKEN
    left_out[why] += 1
    return None


if __name__ == "__main__":
    main()
