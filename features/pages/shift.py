"""What the audit found (features/stages/audit.py), and how models fare after a shift -> the page of the audit."""

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

Told = Mapping[str, Any]
MARKS = {
    "shifts": "Sessions have themes, and people turn between them",
    "weak": "A weak session structure",
    "none": "No session structure",
    "not judged": "Not judged",
}
# Paul Tol's "muted" and "light", in an order that keeps neighbours apart; each block also has its theme's letter
TONES = (
    "#332288",
    "#44AA99",
    "#CC6677",
    "#DDCC77",
    "#117733",
    "#88CCEE",
    "#882255",
    "#999933",
    "#AA4499",
    "#EE8866",
    "#77AADD",
    "#BBCC33",
)
DARK = (0, 4, 6)
OTHER = "#8b95a3"
MADE_OF = {
    "categories": "the log’s categories",
    "grouped categories": "the log’s categories, grouped by who consumes them (those of the same users are one "
    "theme: TruncatedSVD and KMeans of scikit-learn over users, never over sessions)",
    "items": "items grouped by who consumes them, since the log has no categories (TruncatedSVD and KMeans of "
    "scikit-learn over users, never over sessions)",
    "nothing": "nothing: the log has no categories, and too few items that several users share",
}


def write_shift(path: Path, told: Told, models: Sequence[Told] | None, foreign: str | None = None) -> int:
    """Write the page; returns its bytes. models: AUC by requests since the shift, None before any was evaluated.

    foreign: what was judged beside ours, and how much of it fits.
    """
    good = GOOD if told["state"] == "shifts" else WARNS
    facts = [
        ("users", f"{told['num_users']:,}"),
        ("events", f"{told['num_events']:,}"),
        ("sessions judged", f"{told['num_sessions_judged']:,}"),
        ("themes", f"{told['num_themes']}"),
        ("events of a session", f"{told['events_per_session']['median']:.0f} (median)"),
        ("between sessions", _duration(told["gap_s"]["median"]) + " (median)"),
    ]
    head = verdict(
        "Do interests shift from session to session?",
        f"Interest shifts of {told['log']}",
        good,
        told["sentence"],
        facts,
        MARKS[told["state"]],
    )
    parts = [head]
    if told["themes"]:
        parts += [_strips(told), _returns(told), _off_theme(told), _matrix(told), _who(told)]
    parts += [_models(models, foreign), _advice(told), _method(told)]
    foot = "Letters stand for users and say nothing of their ids. Times are UTC. The numbers: shift_audit/audit.json."
    return write_page(path, f"Interest shifts of {told['log']}", parts, foot)


def _strips(told: Told) -> str:
    names = [*told["themes"]]
    keys = "".join(
        f'<li><i style="background:{TONES[place]}"></i>{chr(65 + place).lower()} {escape(name)}</li>'
        for place, name in enumerate(names)
    )
    rows = "".join(
        f"<span>{each['name']} <small>{percent(each['hop_rate'])}</small></span>{_strip(each, names)}"
        for each in told["strips"]
    )
    lead = (
        "A block is a session, oldest on the left; the wider, the more events. From those who turn least (top) to "
        "those who turn most, with the share of their sessions that turn."
    )
    return section("A dozen users", f'<ul class="legend">{keys}</ul><div class="strip">{rows}</div>', lead=lead)


def _strip(each: Told, names: Sequence[str]) -> str:
    blocks, at = [], 0.0
    widths = [max(7.0, 4.0 * size**0.5) for _, size, _ in each["sessions"]]
    whole = max(sum(widths) + len(widths), 420.0)
    for (theme, size, day), width in zip(each["sessions"], widths, strict=True):
        colour = OTHER if theme is None else TONES[theme]
        name = "another theme" if theme is None else names[theme]
        letter = "" if theme is None else chr(97 + theme)
        ink = "#fff" if theme in DARK else "#000"
        blocks.append(
            f'<rect x="{at:.1f}" width="{width:.1f}" height="18" fill="{colour}"><title>day {day}: {escape(name)}, '
            f"{count(size, 'event')}</title></rect>"
            f'<text x="{at + width / 2:.1f}" y="13" text-anchor="middle" fill="{ink}">{letter}</text>'
        )
        at += width + 1
    return (
        f'<svg role="img" aria-label="Sessions of user {each["name"]}: {len(each["sessions"])}, '
        f'{percent(each["hop_rate"])} turn" viewBox="0 0 {whole:.0f} 18" preserveAspectRatio="xMinYMid meet" '
        f'font-size="10" font-family="sans-serif">{"".join(blocks)}</svg>'
    )


def _returns(told: Told) -> str:
    rows = [row | {"shuffled": told["shuffled"]["returns"].get(str(row["lag_days"]))} for row in told["returns"]]
    if len(rows) < 2:
        said = "<p>Too few users come back on later days to say.</p>"
        return section("How a theme comes back", said)
    numbers = table(
        ("days later", "rate", "low", "high", "shuffled", "cases"),
        [[row.get(name) for name in ("lag_days", "rate", "low", "high", "shuffled", "cases")] for row in rows],
        range(6),
        "Return of themes",
    )
    title, note = (
        "Share of days with the same theme again",
        "of the days on which the user is there; band: 95 % over users",
    )
    drawn = figure(shift_charts.svg(shift_charts.returns(rows), title, note), title, note, numbers)
    lead = (
        f"Of the sessions that turn, {percent(told['return_rate'])} go to a theme that the person had been in before "
        f"(shuffled: {percent(told['shuffled']['return_rate'])})."
    )
    return section("How a theme comes back", drawn, lead=lead)


def _off_theme(told: Told) -> str:
    chance = told["shuffled"]["off_theme"]
    rows = [
        (
            f"last {each['window']:,}",
            percent(each["share"]),
            percent(chance.get(str(each["window"]))),
            each["cases"],
        )
        for each in told["off_theme"]
    ]
    lead = "How much of a history is about something else than the next click: what a model of the whole averages in."
    return section(
        "What of the history is off-theme",
        table(
            ("events before a click", "of another theme", "shuffled", "clicks with as many before"),
            rows,
            (1, 2, 3),
            "Off-theme share of the history",
        ),
        lead=lead,
    )


def _matrix(told: Told) -> str:
    counts, names = told["matrix"], told["themes"]
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
    title, note = "From theme to theme", "share of the sessions that follow one of the theme on the left"
    drawn = figure(shift_charts.svg(shift_charts.matrix(rows), title, note), title, note, numbers)
    return section("Which themes follow one another", drawn)


def _who(told: Told) -> str:
    rows = [
        (
            each["segment"],
            each["users"],
            percent(each["users"] / max(told["num_users"], 1)),
            percent(each["share_of_events"]),
            each["sessions"],
            each["themes"],
        )
        for each in told["segments"]
    ]
    lead = "By the share of a user’s sessions that turn to another theme: under a quarter stay, three quarters up hop."
    columns = ("users who", "users", "share of users", "share of events", "sessions (median)", "themes (median)")
    return section("Who hops", table(columns, rows, (1, 2, 3, 4, 5), "Segments of users"), lead=lead)


def _models(models: Sequence[Told] | None, foreign: str | None) -> str:
    title = "How models fare after a shift"
    if not models:
        said = (
            "<p>No model of this log has been evaluated. <code>make run</code> trains ours; a file of another "
            "recommender’s scores is judged beside them: <code>make audit SCORES=scores.csv</code>.</p>"
        )
        return section(title, said)
    names = list(dict.fromkeys(row["model"] for row in models))
    steps = sorted({int(row["since_shift"]) for row in models})
    found = {(row["model"], int(row["since_shift"])): row["auc"] for row in models}
    label = [f"{step}+" if step == steps[-1] else str(step) for step in steps]
    numbers = table(
        ("model", *label),
        [(name, *(found.get((name, step)) for step in steps)) for name in names],
        range(1, len(steps) + 1),
        "AUC by requests since the shift",
    )
    what, note = "AUC by requests since the shift", "0: the first request in the new theme or session"
    drawn = figure(shift_charts.svg(shift_charts.models(models), what, note), what, note)
    more = f"<p>{escape(foreign)}</p>" if foreign else ""
    return section(title, drawn, numbers, more, lead="A model that follows a shift is as good at 0 as later.")


def _advice(told: Told) -> str:
    said = "".join(f"<li>{escape(sentence)}</li>" for sentence in told["advice"])
    return section("What to do", f"<ol>{said}</ol>")


def _method(told: Told) -> str:
    shuffled, steady = told["shuffled"], told["stability"]
    rows = [
        ("next event has the same theme, same session", percent(steady["within"]), percent(shuffled["within"])),
        ("the same, into the next session", percent(steady["between"]), percent(shuffled["between"])),
        ("sessions that turn to another theme", percent(told["hop_rate"]), percent(shuffled["hop_rate"])),
        ("turns to a theme of before", percent(told["return_rate"]), percent(shuffled["return_rate"])),
    ]
    left = told["num_sessions"] - told["num_sessions_judged"]
    text = (
        f"<p>Themes are made of {escape(MADE_OF[told['themes_made_of']])}. A session’s theme is the one that most of "
        f"its events carry. Sessions with fewer than {told['min_session_events']} events or without a theme are left "
        f"out: {left:,} of {told['num_sessions']:,}; {told['num_events'] - told['num_events_themed']:,} of "
        f"{told['num_events']:,} events have no theme. Shuffled: the same events in another order within each user, "
        f"the sessions’ places kept, mean of {shuffled['num_shuffles']}. Rates of under 100 cases are left out.</p>"
        f"<p>The verdict: {escape(told['rules']['verdict'])}. What to do: {escape(told['rules']['advice'])}.</p>"
    )
    lengths = table(
        ("", "median", "95 of 100 below", "largest"),
        [
            ("events of a session", *told["events_per_session"].values()),
            ("sessions of a user", *told["sessions_per_user"].values()),
            ("length of a session", *map(_duration, told["session_length_s"].values())),
            ("between two sessions", *map(_duration, told["gap_s"].values())),
            ("themes of a user", *told["themes_per_user"].values()),
        ],
        (1, 2, 3),
        "Lengths and gaps",
    )
    by_theme = table(("theme", "sessions"), list(told["sessions_by_theme"].items()), (1,), "Sessions by theme")
    return section(
        "Method and counts",
        table(("", "this log", "shuffled"), rows, (1, 2), "Rates beside shuffled events"),
        text,
        lengths,
        details("Sessions by theme", by_theme),
    )


def _duration(seconds: float) -> str:
    for unit, size in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s"
