"""What validate and histories found out of a log (features/quality/record.py) -> the page that a steward opens."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from features.pages import charts
from features.pages.changes import since
from features.pages.document import (
    BAD,
    GOOD,
    WARNS,
    Html,
    count,
    details,
    escape,
    figure,
    number,
    percent,
    section,
    table,
    verdict,
    write_page,
)
from features.pages.flow import GOOD_END, STAGES, flow
from features.pages.grouping import grouped

Told = Mapping[str, Any]
MOST_REASONS = 30
MOST_ROWS = 200
"""Partitions in a table; the newest."""
RULE = "rule"


def write_quality(path: Path, told: Told, before: Told | None = None, docs: str | None = None) -> int:
    """Write the page; returns its bytes. before: what the last run told, with its `told_at`. docs: to Data Docs."""
    state, sentence = judged(told)
    body = [
        verdict(_title(told), f"Data quality of {told['log']}", state, sentence, _facts(told)),
        section(
            "Where the rows went",
            flow(told["ledger"]),
            lead="Every row that was read has exactly one fate; the bars add up to what was read.",
        ),
        _failures(told),
        _reasons(told),
        _partitions(told),
        since(told, before),
        _expectations(told),
    ]
    link = (
        f'<a href="{escape(docs)}">Great Expectations’ Data Docs</a> have every result as it was judged. '
        if docs
        else ""
    )
    foot = (
        f"{link if docs else ''}Limits: params.yaml, <code>validate</code> and <code>expectations</code>; "
        "expectations: features/quality/expectations.yaml. Held-back rows: <code>make quarantine</code>. Times are UTC."
    )
    return write_page(path, f"Data quality of {told['log']}", body, foot)


def judged(told: Told) -> tuple[str, str]:
    """State and one sentence."""
    used = _used(told)
    lost = told["rows_read"] - used
    failed = [each for each in told["expectations"] if not each["passed"] and each["of"] != RULE]
    counted = (
        f"{used:,} of {count(told['rows_read'], 'row')} read ({percent(used / told['rows_read'])}) are valid; "
        f"{lost:,} ({percent(lost / told['rows_read'])}) are not used"
        + (f", most often: {largest['what']} ({largest['rows']:,})" if (largest := _largest(told)) else "")
    )
    if told["refused"]:
        return BAD, f"Blocked: {told['refused']}"
    if failed:
        first = failed[0]
        return WARNS, (
            f"{counted}. {count(len(failed), 'expectation')} of {_num_expectations(told)} failed; the first: "
            f"{first['why']} ({count(first['num_unexpected'], 'exception')})."
        )
    return GOOD, f"{counted}. All {_num_expectations(told)} expectations hold."


def _title(told: Told) -> str:
    return "refused by validate: nothing was passed on" if told["refused"] else "from what was read to what is used"


def _num_expectations(told: Told) -> int:
    return sum(each["of"] != RULE for each in told["expectations"])


def _used(told: Told) -> int:
    return sum(line["rows"] for line in told["ledger"] if line["stage"] == "histories" or line["what"] == "valid")


def _lost(told: Told, stage: str) -> list[Told]:
    return [line for line in told["ledger"] if line["stage"] == stage and line["what"] != GOOD_END]


def _largest(told: Told) -> Told | None:
    lost = [line for stage in STAGES for line in _lost(told, stage)]
    return max(lost, key=lambda each: each["rows"], default=None)


def _facts(told: Told) -> list[tuple[str, str]]:
    partitions = told["partitions"]
    times = [row["last_at"] for row in partitions if row["last_at"]]
    lost = {stage: sum(line["rows"] for line in _lost(told, stage)) for stage in STAGES}
    return [
        ("rows read", f"{told['rows_read']:,}"),
        ("not taken in", f"{lost['ingest']:,}"),
        ("held back or repeated", f"{lost['validate']:,}"),
        ("valid", f"{_used(told):,}"),
        ("partitions", f"{len(partitions):,}"),
        ("newest event", max(times)[:16].replace("T", " ") if times else "–"),
    ]


def _failures(told: Told) -> str:
    failed = [each for each in told["expectations"] if not each["passed"] and each["of"] != RULE]
    if not failed:
        return section("What a steward expects", "<p>Every expectation holds.</p>")
    order = sorted(failed, key=lambda each: each["severity"] != "critical")
    rows = [
        (
            _tag(each),
            each["group"],
            each["why"],
            f"{each['column']} {each['limit']}",
            f"{each['num_unexpected']:,} of {each['num_judged']:,} {each['of']}",
            "; ".join(f"{one['where']}: {number(one['value'])}" for one in each["examples"]),
        )
        for each in order
    ]
    columns = ("severity", "group", "expected", "limit", "not so in", "for example")
    return section(
        "What a steward expects, and is not so",
        table(columns, rows, caption="Failed expectations"),
        lead="A critical expectation blocks what follows; a warning is reported here and in Dagster.",
    )


def _tag(outcome: Told) -> Html:
    if outcome["passed"]:
        return Html('<span class="tag good">holds</span>')
    kind = BAD if outcome["severity"] == "critical" else WARNS
    return Html(f'<span class="tag {kind}">{escape(outcome["severity"])}</span>')


def _reasons(told: Told) -> str:
    reasons = told["reasons"]
    if not reasons:
        return section("Rows that were held back", "<p>None: every row could be read and breaks no rule.</p>")
    parts = []
    for each in reasons[:MOST_REASONS]:
        parts.append(
            f'<h3>{escape(each["reason"])} <span class="tag">{escape(each["stage"])}</span></h3>'
            f"<p>{count(each['rows'], 'row')}, {percent(each['rows'] / told['rows_read'])} of what was read.</p>"
            + "".join(_example(example) for example in each["examples"])
        )
    if len(reasons) > MOST_REASONS:
        parts.append(f"<p>{len(reasons) - MOST_REASONS} more reasons: <code>make quarantine</code>.</p>")
    return section(
        "Rows that were held back, and why",
        *parts,
        lead="A row has the first reason that applied. The first rows of each, with their file and line.",
    )


def _example(example: Told) -> str:
    place = f"{example['file']}, line {example['line']:,}" if example["line"] else example["file"]
    read = ", ".join(
        f"{name}={json.dumps(value, ensure_ascii=False)}"
        for name, value in example["row"].items()
        if name not in ("file", "line", "reason")
    )
    shown = example["raw"] if example["raw"] else read
    more = details("as it was read", f"<pre>{escape(read)}</pre>", place) if example["raw"] and read else ""
    return f'<p class="where">{escape(place)}</p><pre>{escape(shown)}</pre>{more}'


def _partitions(told: Told) -> str:
    rows = [row | {"hours_at_end": _hours(row["silent_at_end_s"])} for row in grouped(told["partitions"])]
    failed: dict[str, set[str]] = {}
    limits: dict[str, list[float]] = {}
    for each in told["expectations"]:
        if each["of"] == "partitions":
            limits[each["column"]] = [float(text) for text in each["limit"].split() if _is_number(text)]
            failed.setdefault(each["column"], set()).update(one["where"] for one in each["examples"])
    drawn = [_chart(rows, limits, failed, *each) for each in _CHARTS]
    flat = "; ".join(f"{escape(each[0])}: {_flat(rows, each[2])}" for each in _CHARTS if _flat(rows, each[2]))
    many = len(rows) < len(told["partitions"])
    lead = (
        f"Each point stands for {-(-len(told['partitions']) // len(rows))} partitions. " if many else ""
    ) + "Limits are dashed, what lies beyond one is ringed."
    return section(
        "By partition",
        f'<div class="charts">{"".join(drawn)}</div>',
        f"<p>Not drawn. {flat}.</p>" if flat else "",
        _all(told),
        lead=lead,
    )


_B, _O = charts.BLUE, charts.ORANGE
_HOURS = (("hours_at_end", "hours", _B),)
_CHARTS: Sequence[tuple[str, str, Sequence[tuple[str, str, str]], str, str]] = (
    (
        "Volume",
        "rows by fate",
        (
            ("rows_valid", "valid", charts.SKY),
            ("rows_quarantined", "held back", charts.RED),
            ("rows_duplicated", "repeated", charts.GREY),
        ),
        "rows",
        "",
    ),
    ("Click rate", "of rows that may be trained on", (("click_rate", "click rate", _B),), "share", ".1~%"),
    (
        "Freshness",
        "hours from the newest event to the partition's end",
        (("hours_at_end", "hours", _B),),
        "hours",
        "~s",
    ),
    (
        "Silence",
        "the longest time without an event, of the partition's length",
        (("longest_gap_share", "silence", _B),),
        "share",
        ".1~%",
    ),
    (
        "Duplicates and held-back rows",
        "share of rows",
        (("duplicated_share", "repeated", _B), ("quarantined_share", "held back", _O)),
        "share",
        ".1~%",
    ),
    ("Lengths of requests", "rows of a request", (("rows_per_request", "rows", _B),), "rows", "~s"),
    ("Rows of a user", "mean", (("rows_per_user", "rows", _B),), "rows", "~s"),
    ("Busiest user", "most different times within a minute", (("most_per_minute", "a minute", _B),), "rows", "~s"),
    ("Users and items", "different ones", (("users", "users", _B), ("items", "items", _O)), "number", "~s"),
    (
        "Drift of categories",
        "distance from the partitions before, 0 to 1",
        (("category_distance", "distance", _B),),
        "distance",
        "~g",
    ),
    ("New items", "share of rows on items never seen before", (("new_item_share", "new", _B),), "share", ".0~%"),
)


def _chart(
    rows: Sequence[Told],
    limits: Mapping[str, list[float]],
    failed: Mapping[str, set[str]],
    title: str,
    note: str,
    parts: Sequence[tuple[str, str, str]],
    unit: str,
    form: str,
) -> str:
    columns = [column for column, *_ in parts]
    if _flat(rows, parts):
        return ""
    if title == "Volume":
        drawn = charts.stacked(rows, parts, unit)
    else:
        ruled = [limit for column in columns for limit in limits.get(column, ())]
        beyond = frozenset(name for column in columns for name in failed.get(column, ()))
        drawn = charts.lines(rows, parts, unit, form, ruled, beyond)
    numbers = table(
        ("partition", *(name for _, name, _ in parts)),
        [(row["partition"], *(row.get(column) for column in columns)) for row in rows],
        numbers=range(1, len(parts) + 1),
        caption=f"{title} by partition",
    )
    return figure(charts.svg(drawn, title, note), title, note, numbers)


def _flat(rows: Sequence[Told], parts: Sequence[tuple[str, str, str]]) -> str:
    """Why there is nothing to draw; empty where there is."""
    values = [row.get(column) for row in rows for column, *_ in parts]
    if any(values):
        return ""
    return "not known of this log" if all(value is None for value in values) else "0 throughout"


def _hours(seconds: float | None) -> float | None:
    return None if seconds is None else seconds / 3600


def _all(told: Told) -> str:
    rows = told["partitions"][-MOST_ROWS:]
    columns = [column for column in rows[0] if any(row[column] is not None for row in rows)]
    dropped = len(told["partitions"]) - len(rows)
    said = f"<p>The newest {len(rows)}; {dropped} before them are in quality.json.</p>" if dropped else ""
    inner = table(columns, [[row[c] for c in columns] for row in rows], range(1, len(columns)), "Every figure")
    return details("Every figure of every partition", said + inner)


def _expectations(told: Told) -> str:
    rows = [
        (
            _tag(each) if each["of"] != RULE else f"{each['num_unexpected']:,} rows",
            each["group"],
            each["why"],
            each["of"],
            f"{each['column']} {each['limit']}",
            each["num_judged"],
            each["num_unexpected"],
        )
        for each in told["expectations"]
    ]
    columns = ("outcome", "group", "what", "of", "limit", "judged", "not so")
    inner = table(columns, rows, numbers=(5, 6), caption="All expectations and rules")
    lead = (
        "Rules hold single rows back; expectations judge partitions and rows as a whole. A row can break several rules "
        "and is held back once."
    )
    return section("All that was asked", details(f"{len(rows)} rules and expectations", inner), lead=lead)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
