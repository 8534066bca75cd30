"""Rows of figures -> small charts as SVG text with the page's CSS variables as colours, by Altair and vl-convert.

Only this module and shift_charts.py import the two, and only where a page is written.
"""

import hashlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt
import vl_convert

WIDTH, HEIGHT = 380, 130
VARIABLES = {  # placeholder colour in the drawing -> CSS variable of the page
    "#010101": "var(--ink)",
    "#020202": "var(--dim)",
    "#030303": "var(--grid)",
    "#040404": "var(--blue)",
    "#050505": "var(--sky)",
    "#060606": "var(--orange)",
    "#070707": "var(--red)",
    "#080808": "var(--grey)",
    "#090909": "var(--good)",
    "#0a0a0a": "var(--wash)",
}
INK, DIM, GRID, BLUE, SKY, ORANGE, RED, GREY, GREEN, WASH = VARIABLES
Rows = Sequence[Mapping[str, Any]]
_CONFIG: Mapping[str, Any] = {
    "background": "transparent",
    "font": "sans-serif",
    "view": {"stroke": None},
    "axis": {
        "labelColor": DIM,
        "titleColor": DIM,
        "gridColor": GRID,
        "domainColor": GRID,
        "tickColor": GRID,
        "labelFontSize": 12,
        "titleFontSize": 12,
        "titleFontWeight": "normal",
        "labelLimit": 150,
    },
    "legend": {"labelColor": DIM, "labelFontSize": 12, "title": None, "orient": "top", "symbolSize": 80},
    "text": {"color": INK, "fontSize": 12},
}


def svg(chart: Any, title: str, description: str = "") -> str:
    """A chart as SVG text, with a label for screen readers and ids that are unique on the page."""
    drawn = chart.configure(**_CONFIG).to_dict()
    text = vl_convert.vegalite_to_svg(drawn, vl_version=".".join(alt.SCHEMA_VERSION.lstrip("v").split(".")[:2]))
    for colour, variable in VARIABLES.items():
        text = text.replace(f'"{colour}"', f'"{variable}"')
    prefix = f"c{hashlib.sha256(text.encode()).hexdigest()[:8]}-"
    text = re.sub(r'\bid="([^"]+)"', rf'id="{prefix}\1"', text)
    text = re.sub(r"url\(#([^)]+)\)", rf"url(#{prefix}\1)", text)
    text = re.sub(
        r' (?:role|aria-[a-z]+)="[^"]*"', "", text
    )  # labels of single marks: the numbers are in a table below
    said = _attribute(f"{title}. {description}".strip())
    return re.sub(r"<svg ", f'<svg role="img" aria-label="{said}" ', text, count=1)


def stacked(rows: Rows, parts: Sequence[tuple[str, str, str]], unit: str) -> Any:
    """Stacked bars by partition. parts: (column, label, colour), from the bottom up."""
    long = [
        {"partition": row["partition"], "part": name, "value": row[column] or 0, "order": place}
        for row in rows
        for place, (column, name, _) in enumerate(parts)
    ]
    names, colours = [name for _, name, _ in parts], [colour for *_, colour in parts]
    return (
        alt.Chart(alt.Data(values=long), width=WIDTH, height=HEIGHT)
        .mark_bar()
        .encode(
            x=_axis(rows),
            y=alt.Y("sum(value):Q", title=unit, axis=alt.Axis(tickCount=4, format="~s")),
            color=alt.Color("part:N", scale=alt.Scale(domain=names, range=colours), legend=alt.Legend()),
            order=alt.Order("order:Q"),
        )
    )


def lines(
    rows: Rows,
    parts: Sequence[tuple[str, str, str]],
    unit: str,
    form: str = "~g",
    limits: Sequence[float] = (),
    failed: frozenset[str] = frozenset(),
    from_zero: bool = True,
) -> Any:
    """Lines by partition, with dashed limits and marks on failed partitions. parts: (column, label, colour)."""
    long = [
        {"partition": row["partition"], "part": name, "value": row[column], "failed": row["partition"] in failed}
        for row in rows
        for column, name, _ in parts
        if row.get(column) is not None
    ]
    names, colours = [name for _, name, _ in parts], [colour for *_, colour in parts]
    legend = alt.Legend() if len(parts) > 1 else None
    base = alt.Chart(alt.Data(values=long), width=WIDTH, height=HEIGHT).encode(
        x=_axis(rows),
        y=alt.Y(
            "value:Q", title=unit, axis=alt.Axis(tickCount=4, format=form), scale=alt.Scale(zero=from_zero, nice=True)
        ),
        color=alt.Color("part:N", scale=alt.Scale(domain=names, range=colours), legend=legend),
    )
    drawn = [base.mark_line(strokeWidth=2), base.mark_point(size=22, filled=True, opacity=1)]
    top = max((each["value"] for each in long), default=0)
    for limit in limits:
        if limit <= 2 * top:  # a much larger limit would flatten the lines
            ruled = alt.Chart(alt.Data(values=[{"limit": limit}]))
            drawn.append(ruled.mark_rule(strokeDash=[4, 4], color=ORANGE).encode(y="limit:Q"))
    if any(each["failed"] for each in long):
        marked = base.transform_filter("datum.failed").encode(color=alt.value(RED))
        drawn.append(marked.mark_point(size=110, filled=False, strokeWidth=2, opacity=1))
    return alt.layer(*drawn)


def paired(rows: Rows, parts: Sequence[tuple[str, str, str]], label: str, unit: str) -> Any:
    """Two or more bars side by side for each row, in the rows' order. parts: (column, label, colour)."""
    long = [{"place": row[label], "part": name, "value": row[column]} for row in rows for column, name, _ in parts]
    names, colours = [name for _, name, _ in parts], [colour for *_, colour in parts]
    places = [row[label] for row in rows]
    return (
        alt.Chart(alt.Data(values=long), width=WIDTH, height=HEIGHT)
        .mark_bar()
        .encode(
            x=alt.X("place:O", title=None, sort=places, axis=alt.Axis(labelAngle=0, labelOverlap=True)),
            xOffset=alt.XOffset("part:N", sort=names),
            y=alt.Y("value:Q", title=unit, axis=alt.Axis(tickCount=4, format="%")),
            color=alt.Color("part:N", scale=alt.Scale(domain=names, range=colours), legend=alt.Legend()),
        )
    )


def _axis(rows: Rows) -> Any:
    """The axis of partitions, with at most about six names."""
    names = [row["partition"] for row in rows]
    step = max(1, -(-len(names) // 6))
    return alt.X(
        "partition:O", title=None, sort=names, axis=alt.Axis(values=names[::step], labelAngle=0, labelOverlap=True)
    )


def _attribute(text: str) -> str:
    return text.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")
