"""A state folder -> what its stamp says, where it may be opened; and whether the live events beside it belong to it."""

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
    """Raises InputError where nothing was loaded, by another version, or into another engine."""
    stamp = read_stamp(state)
    if stamp is None:
        raise InputError(f"{state} holds no loaded snapshot. `make load` loads Feast from the feature snapshot.")
    if not is_current(stamp):
        raise InputError(f"{state} was loaded by another version. `make load` loads it again.")
    if loaded_into(stamp) not in (None, engine()):
        raise InputError(
            f"{state} was loaded into {loaded_into(stamp)}, and ONLINE (LEITMOTIF_ONLINE) is {engine()}. "
            "Choose that one, or `make load` loads this one."
        )
    return stamp


def check_owner(tail: LiveTail, state: Path, stamp: Mapping[str, Any]) -> None:
    """Raises InputError where the live events are not of the log that was loaded."""
    loaded = stamp.get(LOG)
    if loaded is not None and (owner := claim(tail, state, loaded)) != loaded:
        raise InputError(
            f"{place_of(state)} holds live events of another log (identity {owner}) than the one that {state} was "
            f"loaded from ({loaded}). If that is another log, give it a name of its own: "
            '`make set ARGS="source.id=..."`. If it is the same log, moved, `make absorb` says what to write.'
        )


def warn_of_loss(tail: LiveTail, state: Path, absorbed_seq: int) -> None:
    """Say where the tail is younger than what was loaded of it."""
    if (newest := tail.marks().newest) < absorbed_seq:
        log.warning(
            "%s holds live events until %s, and what is loaded some until %s: it is new, another one, or was "
            "emptied. In another clone that is as it should be. Where this service ran before, stop it and bring "
            "back what was there: live events after the last `make absorb` are there alone.",
            place_of(state),
            in_seconds(newest),
            in_seconds(absorbed_seq),
        )


def in_seconds(at: int) -> str:
    """A seq, which is a time in us, for a person."""
    return datetime.fromtimestamp(at / 1e6, UTC).isoformat(timespec="seconds") if at else "never"
