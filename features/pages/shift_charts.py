"""The audit's rows -> its charts: the return of themes, transitions between themes, and models after a shift."""

from collections.abc import Sequence
from typing import Any

import altair as alt

from features.pages.charts import BLUE, DIM, GREEN, GREY, INK, ORANGE, RED, SKY, WASH, Rows, svg

__all__ = ["matrix", "models", "returns", "svg"]

WIDE, HIGH = 640, 220
LINE_HIGH = 14
"""Pixels between two names, of 12 pixels each."""
LINES = (BLUE, ORANGE, GREEN, RED, GREY, SKY, INK, DIM)


def returns(rows: Rows) -> Any:
    """A curve with its band, and the shuffled curve dashed, both named at the right end, one above the other."""
    base = alt.Chart(alt.Data(values=list(rows)), width=WIDE, height=HIGH).encode(
        x=alt.X("lag_days:Q", title="days later", axis=alt.Axis(tickMinStep=1, grid=False))
    )
    share = alt.Axis(format=".0%", tickCount=5)
    band = base.mark_area(opacity=0.25, color=BLUE).encode(y=alt.Y("low:Q", title=None, axis=share), y2="high:Q")
    curve = base.mark_line(color=BLUE, strokeWidth=2, point=alt.OverlayMarkDef(color=BLUE, size=25)).encode(
        y=alt.Y("rate:Q", title=None, axis=share, scale=alt.Scale(zero=True))
    )
    chance = base.mark_line(color=ORANGE, strokeWidth=2, strokeDash=[5, 4]).encode(y="shuffled:Q")
    last = rows[-1]
    curves = (("this log", BLUE, last["rate"]), ("shuffled", ORANGE, last["shuffled"]))
    ends = sorted((end for end in curves if end[2] is not None), key=lambda end: end[2])
    most = max(row[name] or 0.0 for row in rows for name in ("high", "rate", "shuffled"))
    places = apart([value for _, _, value in ends], LINE_HIGH / HIGH * most)
    told = [
        alt.Chart(alt.Data(values=[{"lag_days": last["lag_days"], "rate": place}]))
        .mark_text(align="left", dx=8, color=color, fontSize=12)
        .encode(x="lag_days:Q", y="rate:Q", text=alt.value(name))
        for (name, color, _), place in zip(ends, places, strict=True)
    ]
    return alt.layer(band, curve, chance, *told)


def matrix(rows: Rows) -> Any:
    """Squares, darker for larger shares; shares from 5 % on are printed."""
    order = list(dict.fromkeys(row["from"] for row in rows))
    base = alt.Chart(alt.Data(values=list(rows)), width=460, height=24 * len(order)).encode(
        x=alt.X("to:N", title=None, axis=alt.Axis(orient="top", labelAngle=0)),
        y=alt.Y("from:N", title=None, sort=order, axis=alt.Axis(labelLimit=220)),
    )
    ground = base.mark_rect(color=WASH, stroke="transparent")
    squares = base.mark_rect(color=SKY).encode(
        opacity=alt.Opacity(
            "share:Q", scale=alt.Scale(domain=[0, max(r["share"] for r in rows)], range=[0, 0.9]), legend=None
        )
    )
    numbers = base.transform_filter("datum.share >= 0.05").mark_text(color=INK, fontSize=11)
    return alt.layer(ground, squares, numbers.encode(text=alt.Text("share:Q", format=".0%")))


def models(rows: Rows) -> Any:
    """A line per model, with its name at the right end; names that would lie over one another are moved apart."""
    names = list(dict.fromkeys(row["model"] for row in rows))
    colours = [LINES[place % len(LINES)] for place in range(len(names))]
    last = max(int(row["since_shift"]) for row in rows)
    found = [row["auc"] for row in rows if row["auc"] is not None]
    low, high = min(found, default=0.0), max(found, default=1.0)
    room = max(high - low, 0.001) / 20
    scale = alt.Scale(domain=[low - room, high + room], nice=False, zero=False)
    of_models = {
        "x": alt.X("since_shift:Q", title="requests since the shift", axis=alt.Axis(tickMinStep=1, grid=False)),
        "color": alt.Color("model:N", scale=alt.Scale(domain=names, range=colours), legend=None),
    }
    tall = HIGH + 40
    base = alt.Chart(alt.Data(values=list(rows)), width=WIDE, height=tall).encode(
        **of_models, y=alt.Y("auc:Q", title="AUC", scale=scale)
    )
    ends = sorted((r for r in rows if r["since_shift"] == last and r["auc"] is not None), key=lambda r: r["auc"])
    places = apart([row["auc"] for row in ends], LINE_HIGH / tall * (high - low + 2 * room))
    told = [{**row, "auc": place} for row, place in zip(ends, places, strict=True)]
    labels = alt.Chart(alt.Data(values=told)).encode(**of_models, y=alt.Y("auc:Q", scale=scale), text="model:N")
    return alt.layer(
        base.mark_line(strokeWidth=2, point=alt.OverlayMarkDef(size=25)),
        labels.mark_text(align="left", dx=8, fontSize=12),
    )


def apart(values: Sequence[float], least: float) -> list[float]:
    """Ascending values -> the places nearest to them (by squares) in the same order, at least so far from one another.

    Those that stand too close form a block around their mean (pool adjacent violators).
    """
    blocks: list[list[float]] = []  # of what each value would be if all were shifted onto one place
    for place, value in enumerate(values):
        blocks.append([value - place * least])
        while len(blocks) > 1 and _mean(blocks[-2]) >= _mean(blocks[-1]):
            last = blocks.pop()
            blocks[-1] += last
    shifted = [_mean(block) for block in blocks for _ in block]
    return [each + place * least for place, each in enumerate(shifted)]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
