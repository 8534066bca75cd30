"""The folder of a source's online state, and the stamp that says which snapshot was loaded."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from features.sealed.event import ENGINES

STAMP = "stamp.json"
DEFINED = "defined"
"""The stamp's key for how the state was made: a hash of all definitions, one of the online columns, and more."""
LOG = "log"
"""Its key for the identity of the log that was loaded (features/sealed/log_id.py)."""
LAYOUT = 2
"""Of a snapshot and of what is loaded from it: 2 keeps what is counted of a user by user. Its key is "layout"."""
ENGINE = "engine"
"""In it, which online store was loaded: Feast's registry is of one."""


def state_of(data: Path) -> Path:
    """data/<source> -> .state/<source>/feast, under the same root."""
    return data.parent.parent / ".state" / data.name / "feast"


def is_current(stamp: dict[str, Any]) -> bool:
    """Whether a stamp, or snapshot.json, is of this LAYOUT, and its absorbed_seq one seq an engine."""
    if not isinstance(stamp, dict) or stamp.get("layout") != LAYOUT:
        return False
    absorbed = stamp.get("absorbed_seq")
    return isinstance(absorbed, dict) and absorbed.keys() <= set(ENGINES)


def absorbed_upto(stamp: Mapping[str, Any], engine: str) -> int:
    """The seq up to which the log holds the live events of an engine; 0 where it never held any."""
    return stamp["absorbed_seq"].get(engine, 0)


def loaded_into(stamp: Mapping[str, Any]) -> str | None:
    """The engine of the online store that was loaded, one of ENGINES; None for a scratch state, which has one."""
    return stamp.get(DEFINED, {}).get(ENGINE)


def read_stamp(state: Path) -> dict[str, Any] | None:
    """snapshot.json as it was when the state was loaded, and `stored`, the loaded files' hashes.

    None where no load has finished there.
    """
    try:
        return json.loads((state / STAMP).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
