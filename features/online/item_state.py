"""Counters and co-clicks of items, and the ids whose positions are their keys <-> files of a state folder.

Arrays are memory-mapped, so a worker's memory holds only the pages that it reads. Users of co-clicks are numbered by
the rank of their hash.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from features.encoding import mapped
from features.encoding.counters import Counters
from features.online.hashed_ids import HashedIds, hashes_of

IDS = "ids.json"
USERS = "coclick_users"


@dataclass(frozen=True)
class ItemState:
    """The loaded files."""

    counters: Counters
    items: Mapping[str, int]  # id -> key
    users: Mapping[str, int]  # id -> key in co-clicks; empty without co-clicks


def save(folder: Path, counters: Counters, item_ids: Sequence[str], user_ids: Sequence[str]) -> None:
    """Write all files. item_ids, user_ids: their positions are the counters' keys."""
    if counters.coclicks is not None:
        hashes, order = hashes_of(user_ids)
        mapped.save({"hashes": hashes}, folder, USERS)
        counters = replace(counters, coclicks=counters.coclicks.renumbered(order))
    counters.save(folder)
    write_ids(folder, item_ids)


def write_ids(folder: Path, item_ids: Sequence[str]) -> None:
    """Write only the ids, whose positions are the keys."""
    (folder / IDS).write_text(json.dumps({"items": list(item_ids)}, ensure_ascii=False), encoding="utf-8")


def read_ids(folder: Path) -> list[str]:
    """Read what write_ids wrote."""
    return json.loads((folder / IDS).read_text(encoding="utf-8"))["items"]


def load(folder: Path) -> ItemState:
    """Load what `save` wrote. Raises OSError, ValueError or KeyError if a file is missing or damaged."""
    items = {name: position for position, name in enumerate(read_ids(folder))}
    counters = Counters.load(folder)
    users = mapped.load(folder, USERS).get("hashes", np.zeros(0, np.int64))
    return ItemState(counters, items, HashedIds(users) if len(users) else {})
