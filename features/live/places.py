"""The folder of a source's online state, and the stamp that says which snapshot was loaded."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from features.sealed.event import ENGINES

STAMP = "stamp.json"
DEFINED = "defined"
"""The stamp's key for the definitions: a hash of all, a hash of the online columns, the engine, counted files."""
LOADED = "loaded_us"
"""The stamp's key for the time of the load: of two loads of a machine the later one has the greater."""
LOG = "log"
"""The stamp's key for the identity of the loaded log (features/sealed/log_id.py)."""
LAYOUT = 2
"""Version of snapshots and loads, under the key "layout": 2 stores users' counts in one row per user."""
ENGINE = "engine"
"""The key, within DEFINED, for the engine of the loaded online store."""


def state_of(data: Path) -> Path:
    """data/<source> -> .state/<source>/feast, under the same root."""
    return data.parent.parent / ".state" / data.name / "feast"


def is_current(stamp: dict[str, Any]) -> bool:
    """Whether a stamp, or snapshot.json, has this LAYOUT and an absorbed_seq with one seq per engine."""
    if not isinstance(stamp, dict) or stamp.get("layout") != LAYOUT:
        return False
    absorbed = stamp.get("absorbed_seq")
    return isinstance(absorbed, dict) and absorbed.keys() <= set(ENGINES)


def absorbed_upto(stamp: Mapping[str, Any], engine: str) -> int:
    """The seq up to which the log has the live events of an engine; 0 if it has none."""
    return stamp["absorbed_seq"].get(engine, 0)


def loaded_into(stamp: Mapping[str, Any]) -> str | None:
    """The engine of the loaded online store, one of ENGINES; None for a temporary state."""
    return stamp.get(DEFINED, {}).get(ENGINE)


def read_stamp(state: Path) -> dict[str, Any] | None:
    """The content of snapshot.json at the time of the load, with `stored`, the loaded files' hashes, and `defined`.

    None if no load has finished there.
    """
    try:
        return json.loads((state / STAMP).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
