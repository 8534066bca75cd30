"""Events shuffled within each user -> the audit's measures by chance; a shuffle is a unit of work of an engine.

A shuffle holds the events of the whole log in memory: rates are of all users together.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from features.shifts.events import Events
from features.shifts.measure import off_theme, returns, shifts, shuffled, stability
from features.shifts.themes import NO_THEME, Themes, session_themes
from features.tables.histories import UserHistories

Int64 = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Shuffles:
    """What every shuffle is made of."""

    data: Path
    themes: Themes
    theme_of_item: Int64
    min_session_events: int
    seed: int


def after_shuffles(seed: int, num_shuffles: int, num_events: int) -> np.random.Generator:
    """The random numbers that follow a number of shuffles: each takes one number an event."""
    random = np.random.default_rng(seed)
    random.bit_generator.advance(num_shuffles * num_events)  # pyright: ignore[reportAttributeAccessIssue]
    return random


def by_chance(shuffles: Shuffles, number: int) -> dict[str, Any]:
    """The measures of the same events in another order within each user; sessions stay where they are.

    number: of the shuffle, from 0; its order does not depend on who makes the others.
    """
    events = Events.read(shuffles.data, UserHistories.open(shuffles.data / "user_histories"))
    random = after_shuffles(shuffles.seed, number, len(events.item))
    other = events.item[shuffled(events.user, random)]
    theme = session_themes(shuffles.themes, other, events.num_events)
    large = (events.num_events >= shuffles.min_session_events) & (theme != NO_THEME)
    found = shifts(events.of_user[large], theme[large])
    back = returns(events.of_user[large], events.started[large], theme[large], 0, random)
    return {
        **stability(events.user, events.session, shuffles.theme_of_item[other]),
        "hop_rate": found["hop_rate"],
        "return_rate": found["return_rate"],
        "returns": {row["lag_days"]: row["rate"] for row in back},
        "off_theme": {row["window"]: row["share"] for row in off_theme(events.user, shuffles.theme_of_item[other])},
    }


def mean_of(found: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The mean over the shuffles; null where one has none."""
    if not found:
        none: dict[str, Any] = dict.fromkeys(("within", "between", "hop_rate", "return_rate"))
        return none | {"returns": {}, "off_theme": {}, "num_shuffles": 0}
    told: dict[str, Any] = {"num_shuffles": len(found)}
    for name, value in found[0].items():
        if isinstance(value, dict):
            told[name] = {str(key): _mean([each[name].get(key) for each in found]) for key in value}
        else:
            told[name] = _mean([each[name] for each in found])
    return told


def _mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if len(known) == len(values) and values else None
