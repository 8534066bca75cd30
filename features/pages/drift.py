"""Figures of serving/drift.py -> a page that compares served requests with those of the model's evaluation."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from features.pages.charts import BLUE, GREY, paired, svg
from features.pages.document import (
    GOOD,
    WARNS,
    Html,
    escape,
    figure,
    number,
    percent,
    section,
    table,
    verdict,
    write_page,
)

MARKS = {GOOD: "✓ no drift", WARNS: "! drifted", "": "not judged"}
DRAWN = 6
NAMES = {
    "score": "score (probability of a click)",
    "history_length": "events in a user's history",
    "history_age_h": "hours since a user's newest event",
    "candidates": "candidates of a request",
}


def write_drift(path: Path, report: Mapping[str, Any]) -> int:
    """Write the page; returns its size in bytes. report: drift.json."""
    facts = [
        ("rankings compared", f"{report['num_requests']:,}"),
        ("from", report["from"] or "–"),
        ("to", report["to"] or "–"),
        ("test requests", f"{report['num_expected']:,}"),
        ("model", report["model_version"]),
    ]
    body = [
        verdict(
            f"Drift of {report['log']}",
            "Do served requests look like those that the model was evaluated on?",
            report["state"],
            report["sentence"],
            facts,
            MARKS[report["state"]],
        ),
        _most(report),
        _all(report),
        _left_out(report),
    ]
    foot = "The population stability index compares shares of bins cut at the test requests’ deciles. Times are UTC."
    return write_page(path, f"Drift of {report['log']}", body, foot)


def _most(report: Mapping[str, Any]) -> str:
    ordered = sorted(report["figures"], key=lambda each: -each["psi"])[:DRAWN]
    drawn = "".join(_drawn(each) for each in ordered)
    lead = "Shares of served requests, beside those of test requests, which are about equal in all bins."
    return section("Largest changes", f'<div class="charts">{drawn}</div>', lead=lead) if ordered else ""


def _drawn(each: Mapping[str, Any]) -> str:
    name = _named(each)
    rows = [
        {"bin": label, "expected": before, "found": now}
        for label, before, now in zip(_bins(each["cuts"]), each["expected"], each["found"], strict=True)
    ]
    chart = paired(rows, [("expected", "test", GREY), ("found", "served", BLUE)], "bin", "share")
    cells = [(row["bin"], percent(row["expected"]), percent(row["found"])) for row in rows]
    numbers = table(("up to", "test", "served"), cells, (1, 2), f"Numbers: {name}")
    return figure(svg(chart, name), name, f"index {each['psi']:.2f}, {each['state']}", numbers)


def _named(each: Mapping[str, Any]) -> str:
    name: str = each["name"]
    return NAMES.get(name, name)


def _bins(cuts: list[float]) -> list[str]:
    named = [f"{cut:.2g}" for cut in cuts] + ["more"]
    return [
        f"{name}{' ' * named[:place].count(name)}" for place, name in enumerate(named)
    ]  # spaces keep labels distinct that round to the same text


def _all(report: Mapping[str, Any]) -> str:
    rows = [
        (_named(each), number(each["num"]), f"{each['psi']:.3f}", Html(_tag(each["state"])))
        for each in report["figures"]
    ]
    lead = (
        f"Below {report['steady_below']:g} a figure is steady; from {report['shifted_from']:g} on it has shifted, and "
        "what the model learnt about it may no longer hold. The index that chance alone would give is subtracted."
    )
    return section("Every figure", table(("figure", "values", "index", "state"), rows, (1, 2), "Figures"), lead=lead)


def _tag(state: str) -> str:
    return f'<span class="tag {GOOD if state == "steady" else WARNS}">{escape(state)}</span>'


def _left_out(report: Mapping[str, Any]) -> str:
    rows = [(name, number(num)) for name, num in report["left_out"].items() if num]
    return section("Left out", table(("rankings", "number"), rows, (1,), "Left out")) if rows else ""
