"""Figures of every partition -> the section of the quality page that draws them, one small chart a figure."""

from collections.abc import Mapping, Sequence
from typing import Any

from features.pages import charts
from features.pages.document import details, escape, figure, section, table
from features.pages.grouping import grouped

Told = Mapping[str, Any]
MOST_ROWS = 200
"""Partitions in a table; the newest."""

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
        "the longest time without an event, of the partition's length",
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


def by_partition(partitions: Sequence[Told], expectations: Sequence[Told]) -> str:
    """The section: a chart of each figure that says something, what fails it ringed, and all figures in a table."""
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
        f"Each point stands for {-(-len(partitions) // len(rows))} partitions. " if many else ""
    ) + "Limits are dashed; what lies beyond one is ringed, the first five of each expectation."
    return section(
        "By partition",
        f'<div class="charts">{"".join(drawn)}</div>',
        f"<p>Not drawn. {flat}.</p>" if flat else "",
        _all(partitions),
        lead=lead,
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


def _minutes(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds / 60, 2)


def _all(partitions: Sequence[Told]) -> str:
    rows = partitions[-MOST_ROWS:]
    columns = [column for column in rows[0] if any(row[column] is not None for row in rows)]
    dropped = len(partitions) - len(rows)
    said = f"<p>The newest {len(rows)}; {dropped} before them are in quality.json.</p>" if dropped else ""
    inner = table(columns, [[row[c] for c in columns] for row in rows], range(1, len(columns)), "Every figure")
    return details("Every figure of every partition", said + inner)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
