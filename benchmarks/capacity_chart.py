"""Measured CPU seconds and the lines drawn further -> the picture on the capacity page (docs/capacity.svg)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

SMALLEST, LARGEST = 3e5, 1e11
"""Rows at the ends of the picture."""


@dataclass(frozen=True)
class Curve:
    """CPU seconds by rows: what was measured, and the line through it."""

    label: str
    colour: str  # of Okabe and Ito's palette, told apart by people who do not see all colours
    at: Callable[[float], float]
    points: Sequence[tuple[float, float]]  # the line goes through these
    checks: Sequence[tuple[float, float]]  # measured in another run; the line knows nothing of them


def draw(curves: Sequence[Curve], cores: int, path: Path) -> None:
    """CPU hours by rows on two logarithmic axes; a curve is solid as far as something was measured.

    cores: of a node, for the axis on the right.
    """
    import matplotlib

    matplotlib.use("svg")
    import matplotlib.pyplot as plt

    plt.rcParams.update({"svg.hashsalt": "leitmotif", "font.size": 10, "axes.spines.top": False})
    figure, axis = plt.subplots(figsize=(8.4, 3.8), layout="constrained")
    for curve in curves:
        known = max(rows for rows, _ in (*curve.points, *curve.checks))
        for first, last, style in ((SMALLEST, known, "-"), (known, LARGEST, ":")):
            rows = np.geomspace(first, last, 60)
            label = curve.label if style == "-" else None
            axis.plot(rows, [curve.at(each) / 3600 for each in rows], style, color=curve.colour, label=label)
        for places, mark in ((curve.points, "o"), (curve.checks, "x")):
            axis.plot([rows for rows, _ in places], [cpu / 3600 for _, cpu in places], mark, color=curve.colour)
    axis.set(xscale="log", yscale="log", xlim=(SMALLEST, LARGEST))
    axis.set(xlabel="events of the log (rows)", ylabel="CPU hours of one core")
    of_node = (lambda hours: np.asarray(hours) / cores, lambda hours: np.asarray(hours) * cores)
    axis.secondary_yaxis("right", functions=of_node).set_ylabel(f"hours on one node of {cores} cores")
    for hours, words in ((1 / 60, "a minute"), (1, "an hour"), (24, "a day")):
        axis.axhline(hours, color="#cccccc", linewidth=0.7, zorder=0)
        axis.annotate(words, (SMALLEST, hours), xytext=(3, 2), textcoords="offset points", color="#666666", fontsize=8)
    for style, words in (("o", "the line goes through these"), ("x", "another run, as a check"), (":", "not measured")):
        axis.plot([], [], style, color="#555555", label=words)
    axis.legend(fontsize=8, loc="lower right", framealpha=1, facecolor="white", edgecolor="white")
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)
