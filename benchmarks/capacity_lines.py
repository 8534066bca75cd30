"""What benchmarks measured -> lines through it, for the capacity page."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Slope:
    """A line through two measured points."""

    fixed: float
    a_row: float

    @classmethod
    def through(cls, points: Sequence[tuple[float, float]]) -> "Slope":
        """points: (rows, cost); the line goes through the smallest and the largest. A negative fixed part becomes 0."""
        (few, low), (many, high) = min(points), max(points)
        a_row = (high - low) / (many - few)
        return cls(max(0.0, low - a_row * few), a_row)

    def at(self, rows: float) -> float:
        """The cost of a number of rows."""
        return self.fixed + self.a_row * rows


def read(name: str) -> dict[str, Any]:
    """The figures that a benchmark wrote."""
    return json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))


def slope_of(stages: Sequence[Mapping[str, Any]], stage: str, figure: str) -> Slope:
    """The line of a stage's cost over rows. figure: cpu_s or bytes."""
    return Slope.through([(each["rows"], each[figure]) for each in stages if each["stage"] == stage])


def in_words(events: float) -> str:
    """2.5e9 -> 2.5 billion."""
    return f"{events / 1e9:,g} billion" if events >= 1e9 else f"{events / 1e6:,g} million"
