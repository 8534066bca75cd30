"""A live event <-> what the scripts of redis_scripts.py take of it, and what Redis then holds."""

import json
from collections.abc import Sequence

from features.sealed.event import LiveEvent
from features.sealed.forgotten import hash_of
from features.terms.convention import key_of_text


def arguments_of(event: LiveEvent) -> tuple[str | bytes | int, ...]:
    """What APPEND takes of an event. A member sorts by item and event key and ends with the whole event."""
    key = key_of_text(event.event_id) + 2**63
    whole = json.dumps(event, ensure_ascii=False, separators=(",", ":"))  # has no byte 0: JSON escapes it
    member = f"{event.item_id}\0{key:016x}\0{whole}"
    name = hash_of(event.user_id)
    in_history = int(event.in_history)
    return event.user_id, name, event.event_id, int(event.revision), in_history, int(event.counts_from), member


def events_of(members: Sequence[bytes]) -> list[LiveEvent]:
    """Parsed as one text, in a quarter of the time."""
    whole = b",".join(member[member.rindex(b"\0") + 1 :] for member in members)
    return [LiveEvent(*values) for values in json.loads(b"[" + whole + b"]")]
