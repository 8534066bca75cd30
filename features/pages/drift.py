"""What serving/drift.py found -> a page: whether what is served looks like what the model was judged on."""

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

MARKS = {GOOD: "✓ as it was judged", WARNS: "! moved", "": "not judged"}
DRAWN = 6
NAMES = {
    "score": "score (probability of a click)",
    "history_length": "events in a user's history",
    "history_age_h": "hours since a user's newest event",
    "candidates": "candidates of a request",
}


def write_drift(path: Path, told: Mapping[str, Any]) -> int:
    """Write the page; returns its bytes. told: drift.json."""
    facts = [
        ("rankings looked at", f"{told['num_requests']:,}"),
        ("from", told["from"] or "–"),
        ("to", told["to"] or "–"),
        ("test requests beside them", f"{told['num_expected']:,}"),
        ("model", told["model_version"]),
    ]
    body = [
        verdict(
            f"Drift of {told['log']}",
            "Does what is served look like what the model was judged on?",
            told["state"],
            told["sentence"],
            facts,
            MARKS[told["state"]],
        ),
        _most(told),
        _all(told),
        _left_out(told),
    ]
    foot = "The population stability index compares shares of bins cut at the test requests’ deciles. Times are UTC."
    return write_page(path, f"Drift of {told['log']}", body, foot)


def _most(told: Mapping[str, Any]) -> str:
    ordered = sorted(told["figures"], key=lambda each: -each["psi"])[:DRAWN]
    drawn = "".join(_drawn(each) for each in ordered)
    lead = "Shares of what was served, beside the test requests. Each bin holds about as much of the latter."
    return section("What moved most", f'<div class="charts">{drawn}</div>', lead=lead) if ordered else ""


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
    return [f"{name}{' ' * named[:place].count(name)}" for place, name in enumerate(named)]  # two may round alike


def _all(told: Mapping[str, Any]) -> str:
    rows = [
        (_named(each), number(each["num"]), f"{each['psi']:.3f}", Html(_tag(each["state"]))) for each in told["figures"]
    ]
    lead = (
        f"Below {told['steady_below']:g} a figure is steady, from {told['shifted_from']:g} on it has shifted: what the "
        "model learnt of it may not hold. What chance alone would give is taken off."
    )
    return section("Every figure", table(("figure", "values", "index", "state"), rows, (1, 2), "Figures"), lead=lead)


def _tag(state: str) -> str:
    return f'<span class="tag {GOOD if state == "steady" else WARNS}">{escape(state)}</span>'


def _left_out(told: Mapping[str, Any]) -> str:
    rows = [(name, number(num)) for name, num in told["left_out"].items() if num]
    return section("Left out", table(("rankings", "number"), rows, (1,), "Left out")) if rows else ""
