"""A state folder -> its checked stamp, and whether the tail of live events beside it belongs to the same log."""

import logging
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from contracts.errors import InputError
from features.live.open_tail import claim, engine, place_of
from features.live.places import LOG, is_current, loaded_into, read_stamp
from features.live.tail import LiveTail

log = logging.getLogger("leitmotif")


def stamp_of(state: Path) -> dict[str, Any]:
    """The stamp. Raises InputError if nothing is loaded, or it was loaded by another version or into another engine."""
    stamp = read_stamp(state)
    if stamp is None:
        raise InputError(f"{state} holds no loaded snapshot. `make load` loads Feast from the feature snapshot.")
    if not is_current(stamp):
        raise InputError(f"{state} was loaded by another version. `make load` loads it again.")
    if loaded_into(stamp) not in (None, engine()):
        raise InputError(
            f"{state} was loaded into {loaded_into(stamp)}, but ONLINE (LEITMOTIF_ONLINE) is {engine()}. "
            f"Set it to {loaded_into(stamp)}, or `make load` loads {engine()}."
        )
    return stamp


def check_owner(tail: LiveTail, state: Path, stamp: Mapping[str, Any]) -> None:
    """Raises InputError if the live events belong to another log than the loaded one."""
    loaded = stamp.get(LOG)
    if loaded is not None and (owner := claim(tail, state, loaded)) != loaded:
        raise InputError(
            f"{place_of(state)} holds live events of another log (identity {owner}) than the one that {state} was "
            f"loaded from ({loaded}). If they are different logs, give this one its own name: "
            '`make set ARGS="source.id=..."`. If it is the same log, moved, `make absorb` says what to write.'
        )


def warn_of_loss(tail: LiveTail, state: Path, absorbed_seq: int) -> None:
    """Warn if the tail's newest event is older than the newest absorbed one."""
    if (newest := tail.marks().newest) < absorbed_seq:
        log.warning(
            "%s holds live events until %s, but the loaded snapshot holds some until %s: the tail is new, emptied or "
            "another one. In another clone that is expected. If this service ran here before, stop it and restore the "
            "tail: live events after the last `make absorb` are nowhere else.",
            place_of(state),
            in_seconds(newest),
            in_seconds(absorbed_seq),
        )


def in_seconds(at: int) -> str:
    """A seq, which is a time in us, as ISO text; 0 as "never"."""
    return datetime.fromtimestamp(at / 1e6, UTC).isoformat(timespec="seconds") if at else "never"
