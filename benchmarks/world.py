"""The simulated world behind a log, drawn again from its params -> the true probabilities of clicks."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc
import pyarrow.parquet as pq

from features.sources.simulator import HOUR_MS, LOGIT_BASE, LOGIT_OWN, LOGIT_SESSION, STARTED_AT_MS
from features.sources.simulator_shelf import Shelf, fill_shelf
from features.sources.simulator_world import Users, WorldItems, draw_items, draw_users
from features.terms.params import SimulatorParams

Floats = npt.NDArray[np.float64]
TOLERANCE = 2e-3
"""Of a logit: the log's are rounded to three digits."""


@dataclass(frozen=True)
class World:
    """WorldItems and users are numbered as their ids are: u00042 is 42."""

    items: WorldItems
    users: Users
    shelf: Shelf

    @classmethod
    def draw(cls, params: SimulatorParams, seed: int) -> "World":
        """In the order in which simulate draws."""
        rng = np.random.Generator(np.random.PCG64(seed))
        items, users = draw_items(params, rng), draw_users(params, rng)
        return cls(items, users, fill_shelf(params, items, rng))

    def logits(self, user: int, theme: int, at: int) -> Floats:
        """[N] of a click in a session of a theme, at a time in us; -inf of what is not on offer then."""
        hour = min((at // 1000 - STARTED_AT_MS) // HOUR_MS, len(self.shelf.item) - 1)
        item, appeal = self.shelf.item[hour], self.shelf.appeal[hour]
        themes = self.items.theme[item]
        taste = (self.users.preference[user][themes] * self.items.style[item]).sum(1)
        made = np.full(len(self.items.theme), -np.inf)
        made[item] = LOGIT_BASE + self.users.bias[user] + taste + appeal
        made[item] += LOGIT_SESSION * (themes == theme) + LOGIT_OWN * (self.users.weight[user, themes] > 0)
        return made

    def clicks(self, user: int, theme: int, at: int) -> Floats:
        """[N] the probability of a click; 0 for items not on offer."""
        return 1 / (1 + np.exp(-self.logits(user, theme, at)))


def number(name: str) -> int:
    """Of an id of the simulator: u00042 -> 42."""
    return int(name[1:])


def read_requests(data: Path) -> dict[str, Any]:
    """truth/requests as columns, in order of time: user, session, theme (numbers), at (us), name."""
    table = pq.read_table(data / "truth" / "requests.parquet")
    return {
        "name": np.array(table["impression_id"].to_pylist()),
        "user": np.array([number(name) for name in table["user_id"].to_pylist()]),
        "session": table["session"].to_numpy(),
        "theme": table["theme"].to_numpy(),
        "ordinal": table["ordinal"].to_numpy(),
        "at": pc.cast(table["occurred_at"], "int64").to_numpy(),
    }


def check(world: World, data: Path, rows: int = 200) -> None:
    """Raise SystemExit if the world is not that of the log, because the params differ from the run's."""
    told = read_requests(data)
    place = {name: row for row, name in enumerate(told["name"])}
    log = pq.read_table(data / "truth" / "propensities.parquet", columns=["event_id", "impression_id", "item_id"])
    logits = pq.read_table(data / "truth" / "logits.parquet")
    if log["event_id"].slice(0, rows) != logits["event_id"].slice(0, rows):
        raise SystemExit(f"{data}/truth is not in the order that is read here.")
    for name, item, wanted in zip(
        log["impression_id"].slice(0, rows).to_pylist(),
        log["item_id"].slice(0, rows).to_pylist(),
        logits["logit"].slice(0, rows).to_pylist(),
        strict=True,
    ):
        row = place[name]
        found = world.logits(told["user"][row], told["theme"][row], int(told["at"][row]))[number(item)]
        if abs(found - wanted) > TOLERANCE:
            raise SystemExit(f"{data} was simulated by other params than params.yaml has now: make run, then again.")
