"""Figures of the audit (features/stages/audit.py) and of models after a shift -> the interest-shift page."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from features.pages import shift_charts
from features.pages.document import (
    GOOD,
    WARNS,
    count,
    details,
    escape,
    figure,
    percent,
    section,
    table,
    verdict,
    write_page,
)
from features.pages.strips import strips

Report = Mapping[str, Any]
MARKS = {
    "shifts": "Sessions have themes, and people turn between them",
    "weak": "A weak session structure",
    "none": "No session structure",
    "not judged": "Not judged",
}
MODELS = {"mos": "MoS", "din": "DIN", "logistic": "logistic regression"}
STEADY = 0.8
"""Themes do not fade if their rate at the longest lag is at least this share of that at the shortest."""
MADE_OF = {
    "categories": "the log’s categories",
    "grouped categories": "the log’s categories, grouped by who consumes them (those of the same users are one "
    "theme: TruncatedSVD and KMeans of scikit-learn over users, never over sessions)",
    "items": "items grouped by who consumes them, since the log has no categories (TruncatedSVD and KMeans of "
    "scikit-learn over users, never over sessions)",
    "nothing": "nothing: the log has no categories, and too few items that several users share",
}


def write_shift(path: Path, report: Report, models: Sequence[Report] | None, foreign: str | None = None) -> int:
    """Write the page; returns its size in bytes. models: AUC by requests since the shift; None before an evaluation.

    foreign: a sentence about another recommender that was judged beside ours, and how many of its scores match.
    """
    good = GOOD if report["state"] == "shifts" else WARNS
    facts = [
        ("users", f"{report['num_users']:,}"),
        ("events", f"{report['num_events']:,}"),
        ("sessions judged", f"{report['num_sessions_judged']:,}"),
        ("themes", f"{report['num_themes']}"),
        ("events per session", f"{report['events_per_session']['median']:.0f} (median)"),
        ("between sessions", _duration(report["gap_s"]["median"]) + " (median)"),
    ]
    head = verdict(
        f"Do interests shift from session to session{', and which model follows' if models else ''}?",
        f"Interest shifts of {report['log']}",
        good,
        " ".join(filter(None, [report["sentence"], _best_after_a_shift(models or ())])),
        facts,
        MARKS[report["state"]],
    )
    parts = [head, _models(models, foreign)] if models else [head]
    if report["themes"]:
        parts += [strips(report), _returns(report), _off_theme(report), _matrix(report), _who(report)]
    parts += [] if models else [_models(models, foreign)]
    parts += [_advice(report), _method(report)]
    foot = "Letters stand for users and say nothing of their ids. Times are UTC. The numbers: shift_audit/audit.json."
    return write_page(path, f"Interest shifts of {report['log']}", parts, foot)


def _returns(report: Report) -> str:
    rows = [row | {"shuffled": report["shuffled"]["returns"].get(str(row["lag_days"]))} for row in report["returns"]]
    if len(rows) < 2:
        said = "<p>Too few users come back on later days for a curve.</p>"
        return section("How a theme comes back", said)
    numbers = table(
        ("days later", "the same theme", "interval from", "to", "shuffled", "cases"),
        [
            (row["lag_days"], *(percent(row.get(name)) for name in ("rate", "low", "high", "shuffled")), row["cases"])
            for row in rows
        ],
        range(6),
        "Return of themes",
    )
    title, note = (
        "Share of days with the same theme again",
        "of the user's later active days; band: 95 % interval over users",
    )
    drawn = figure(shift_charts.svg(shift_charts.returns(rows), title, note), title, note, numbers, is_wide=True)
    lead = (
        f"Of the sessions that turn, {percent(report['return_rate'])} go to a theme that the user has had before "
        f"(shuffled: {percent(report['shuffled']['return_rate'])}). {_fading(rows)}"
    )
    return section("How a theme comes back", drawn, lead=lead)


def _fading(rows: Sequence[Report]) -> str:
    """The curve in a sentence: by its slope, since its height is below the shuffled one, which spreads each theme."""
    first, last = rows[0], rows[-1]
    said = "Themes do not fade" if last["rate"] >= STEADY * first["rate"] else "Themes fade"
    soon, late = (f"{percent(row['rate'])} of cases {count(row['lag_days'], 'day')} later" for row in (first, last))
    return f"{said}: a theme of one day is there again in {soon} and in {late}, if the user is active then."


def _off_theme(report: Report) -> str:
    chance = report["shuffled"]["off_theme"]
    rows = [
        (
            f"last {each['window']:,}",
            percent(each["share"]),
            percent(chance.get(str(each["window"]))),
            each["cases"],
        )
        for each in report["off_theme"]
    ]
    lead = (
        "The share of a history that is about another theme than the next click. A model of the whole averages it in."
    )
    return section(
        "How much of a history is off-theme",
        table(
            ("events before a click", "of another theme", "shuffled", "clicks with that many before"),
            rows,
            (1, 2, 3),
            "Off-theme share of the history",
        ),
        lead=lead,
    )


def _matrix(report: Report) -> str:
    counts, names = report["matrix"], report["themes"]
    if not sum(map(sum, counts)):
        return ""
    rows = [
        {
            "from": f"{chr(97 + i)} {names[i]}",
            "to": chr(97 + j),
            "share": counts[i][j] / max(sum(counts[i]), 1),
            "sessions": counts[i][j],
        }
        for i in range(len(names))
        for j in range(len(names))
    ]
    letters = [chr(97 + place) for place in range(len(names))]
    numbers = table(
        ("from", *letters),
        [(f"{letters[i]} {names[i]}", *counts[i]) for i in range(len(names))],
        range(1, len(names) + 1),
        "Sessions from theme to theme",
    )
    title, note = "From theme to theme", "share of the sessions that follow a session of the theme on the left"
    drawn = figure(shift_charts.svg(shift_charts.matrix(rows), title, note), title, note, numbers, is_wide=True)
    return section("Which themes follow one another", drawn)


def _who(report: Report) -> str:
    rows = [
        (
            each["segment"],
            each["users"],
            percent(each["users"] / max(report["num_users"], 1)),
            percent(each["share_of_events"]),
            each["sessions"],
            each["themes"],
        )
        for each in report["segments"]
    ]
    lead = "By the share of a user’s sessions that turn to another theme: stay: under 25 %, hop: from 75 % on."
    columns = ("users who", "users", "share of users", "share of events", "sessions (median)", "themes (median)")
    return section("Who hops", table(columns, rows, (1, 2, 3, 4, 5), "Segments of users"), lead=lead)


def _models(models: Sequence[Report] | None, foreign: str | None) -> str:
    title = "How models fare after a shift"
    if not models:
        said = (
            "<p>This page is about the log alone. <code>make run</code> trains and judges models, and then "
            "<code>shift_models.html</code> lies beside this page; a file of another recommender’s scores is judged "
            "beside ours: <code>make audit SCORES=scores.csv</code>.</p>"
        )
        return section(title, said)
    names = list(dict.fromkeys(row["model"] for row in models))
    steps = sorted({int(row["since_shift"]) for row in models})
    found = {(row["model"], int(row["since_shift"])): row["auc"] for row in models}
    label = [f"{step}+" if step == steps[-1] else str(step) for step in steps]
    numbers = table(
        ("model", *label),
        [(_named(name), *(_auc(found.get((name, step))) for step in steps)) for name in names],
        range(1, len(steps) + 1),
        "AUC by requests since the shift",
    )
    what, note = "AUC by requests since the shift", "0: the first request in the new theme or session"
    named = [{**row, "model": _named(row["model"])} for row in models]
    drawn = figure(shift_charts.svg(shift_charts.models(named), what, note), what, note, is_wide=True)
    more = f"<p>{escape(foreign)}</p>" if foreign else ""
    lead = "A model that follows a shift is as good at 0 as later. AUC: 0.5 is chance, 1 a perfect order."
    return section(title, drawn, numbers, more, lead=lead)


def _best_after_a_shift(models: Sequence[Report]) -> str:
    """The two models with the best order in the first request after a shift, in a sentence."""
    first = sorted(
        (row for row in models if int(row["since_shift"]) == 0 and row["auc"] is not None), key=lambda row: -row["auc"]
    )
    if len(first) < 2:
        return ""
    best, next_ = ((_named(row["model"]), _auc(row["auc"])) for row in first[:2])
    return f"Right after a shift {best[0]} orders best (AUC {best[1]}), then {next_[0]} ({next_[1]})."


def _named(model: str) -> str:
    return MODELS.get(model, model)


def _auc(value: float | None) -> str | None:
    return None if value is None else f"{value:.3f}"


def _advice(report: Report) -> str:
    said = "".join(f"<li>{escape(sentence)}</li>" for sentence in report["advice"])
    return section("What to do", f"<ol>{said}</ol>")


def _method(report: Report) -> str:
    shuffled, steady = report["shuffled"], report["stability"]
    rows = [
        ("next event has the same theme, same session", percent(steady["within"]), percent(shuffled["within"])),
        ("next event has the same theme, next session", percent(steady["between"]), percent(shuffled["between"])),
        ("sessions that turn to another theme", percent(report["hop_rate"]), percent(shuffled["hop_rate"])),
        ("turns to an earlier theme of the user", percent(report["return_rate"]), percent(shuffled["return_rate"])),
    ]
    left = report["num_sessions"] - report["num_sessions_judged"]
    text = (
        f"<p>Themes are made of {escape(MADE_OF[report['themes_made_of']])}. A session’s theme is the one of most of "
        f"its events. Sessions with fewer than {report['min_session_events']} events or without a theme are left "
        f"out: {left:,} of {report['num_sessions']:,}; {report['num_events'] - report['num_events_themed']:,} of "
        f"{report['num_events']:,} events have no theme. Shuffled: each user’s events in random order over the same "
        f"sessions, mean of {shuffled['num_shuffles']} shuffles. Rates of under 100 cases are left out.</p>"
        f"<p>The verdict: {escape(report['rules']['verdict'])}. What to do: {escape(report['rules']['advice'])}.</p>"
    )
    lengths = table(
        ("figure", "median", "95 of 100 below", "largest"),
        [
            ("events per session", *_spread(report["events_per_session"])),
            ("sessions per user", *_spread(report["sessions_per_user"])),
            ("length of a session", *map(_duration, _spread(report["session_length_s"]))),
            ("between two sessions", *map(_duration, _spread(report["gap_s"]))),
            ("themes per user", *_spread(report["themes_per_user"])),
        ],
        (1, 2, 3),
        "Lengths and gaps",
    )
    largest_first = sorted(report["sessions_by_theme"].items(), key=lambda each: (-each[1], each[0]))
    by_theme = table(("theme", "sessions"), largest_first, (1,), "Sessions by theme")
    return section(
        "Method and counts",
        table(("rate", "this log", "shuffled"), rows, (1, 2), "Rates beside shuffled events"),
        text,
        lengths,
        details("Sessions by theme", by_theme),
    )


def _spread(figures: Report) -> tuple[float, float, float]:
    """In the order of the table's columns; a report that was written and read again has another one."""
    return figures["median"], figures["p95"], figures["max"]


def _duration(seconds: float) -> str:
    for unit, size in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s"
