"""Figures of every partition -> a section of the quality page with one small chart per figure."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from features.pages import charts
from features.pages.columns import legend
from features.pages.document import details, escape, figure, section, table
from features.pages.grouping import grouped

Report = Mapping[str, Any]
MOST_ROWS = 200
"""Number of newest partitions in a table."""

_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d")
_B, _O = charts.BLUE, charts.ORANGE
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
        "minutes from the newest event to the partition's end",
        (("minutes_at_end", "minutes", _B),),
        "minutes",
        ",~g",
    ),
    (
        "Silence",
        "the longest time without an event, as a share of the partition",
        (("longest_gap_share", "silence", _B),),
        "share",
        ".2~%",
    ),
    (
        "Duplicates and held-back rows",
        "share of rows",
        (("duplicated_share", "repeated", _B), ("quarantined_share", "held back", _O)),
        "share",
        ".1~%",
    ),
    ("Lengths of requests", "rows per request", (("rows_per_request", "rows", _B),), "rows", "~s"),
    ("Rows per user", "mean", (("rows_per_user", "rows", _B),), "rows", "~s"),
    ("Busiest user", "most distinct times within a minute", (("most_per_minute", "a minute", _B),), "rows", "~s"),
    ("Users and items", "distinct ones", (("users", "users", _B), ("items", "items", _O)), "number", "~s"),
    (
        "Drift of categories",
        "distance from earlier partitions, 0 to 1",
        (("category_distance", "distance", _B),),
        "distance",
        "~g",
    ),
    ("New items", "share of rows on items never seen before", (("new_item_share", "new", _B),), "share", ".0~%"),
)


def by_partition(partitions: Sequence[Report], expectations: Sequence[Report]) -> str:
    """The section: a chart of each figure that varies, with failing partitions ringed, and a table of all figures."""
    rows = [row | {"minutes_at_end": _minutes(row["silent_at_end_s"])} for row in grouped(partitions)]
    failed: dict[str, set[str]] = {}
    limits: dict[str, list[float]] = {}
    for each in expectations:
        if each["of"] == "partitions":
            limits[each["column"]] = [float(text) for text in each["limit"].split() if _is_number(text)]
            failed.setdefault(each["column"], set()).update(one["where"] for one in each["examples"])
    drawn = [_chart(rows, limits, failed, *each) for each in _CHARTS]
    flat = "; ".join(f"{escape(each[0])}: {_flat(rows, each[2])}" for each in _CHARTS if _flat(rows, each[2]))
    many = len(rows) < len(partitions)
    lead = (
        f"Each point stands for {-(-len(partitions) // len(rows))} partitions: counts of rows are added, rates "
        "averaged; of users, items, silence, freshness and the busiest user it is the largest. "
        if many
        else ""
    ) + "Limits are dashed; values beyond a limit are ringed, at most five per expectation."
    return section(
        "By partition",
        f'<div class="charts">{"".join(drawn)}</div>',
        f"<p>Not drawn. {flat}.</p>" if flat else "",
        _all(partitions),
        lead=lead,
    )


def _chart(
    rows: Sequence[Report],
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


def _flat(rows: Sequence[Report], parts: Sequence[tuple[str, str, str]]) -> str:
    """Why a figure is not drawn; empty if it is."""
    values = [row.get(column) for row in rows for column, *_ in parts]
    if any(values):
        return ""
    return "unknown for this log" if all(value is None for value in values) else "0 throughout"


def _minutes(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds / 60, 2)


def _all(partitions: Sequence[Report]) -> str:
    rows = partitions[-MOST_ROWS:]
    columns = [column for column in rows[0] if any(row[column] is not None for row in rows)]
    dropped = len(partitions) - len(rows)
    said = f"<p>The newest {len(rows)}; the {dropped} before them are in quality.json.</p>" if dropped else ""
    cells = [[_shown(row[column]) for column in columns] for row in rows]
    inner = table(columns, cells, range(1, len(columns)), "Every figure")
    return details("Every figure of every partition", said + inner + legend(tuple(columns)))


def _shown(value: Any) -> Any:
    """A time without its fraction: 2024-01-31 23:59:58."""
    is_time = isinstance(value, str) and _TIME.match(value)
    return value[:19].replace("T", " ") if is_time else value


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
