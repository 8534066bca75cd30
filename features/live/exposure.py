"""A ranking that was shown -> an impression_id that encodes when and for whom, and the rows it adds to the log.

An event with this impression_id is the outcome of one of those rows and has the ranking's time: as in any impression
log, a click carries the time of its impression. The impression_id ends with a checksum that requires the tail's secret.
"""

import hashlib
import hmac
import secrets
from collections.abc import Sequence

from contracts.schema import ROLE_IMPRESSION
from features.encoding.asked import Context
from features.sealed.event import EVENT, LiveEvent

PREFIX = "served"
NUM_DIGITS = 16  # of a microsecond, hexadecimal
CHECK_DIGITS = 16
END = 7_258_118_400_000_000  # us since 1970: the year 2200, after which no ranking is ours


def name_exposure(user_id: str, at: int, secret: bytes) -> str:
    """A new impression_id, never given twice: served-<time>-<nonce>-<check>. at: us since 1970. secret: the tail's."""
    stem = f"{PREFIX}-{at:0{NUM_DIGITS}x}-{secrets.token_hex(8)}"
    return f"{stem}-{_check(user_id, stem, secret)}"


def served_at(impression_id: str | None, user_id: str, secret: bytes) -> int | None:
    """When a ranking of ours was made for this user, us since 1970; None for any other name or secret."""
    stem, _, check = (impression_id or "").rpartition("-")
    parts = stem.split("-")
    if len(parts) != 3 or parts[0] != PREFIX or len(parts[1]) != NUM_DIGITS:
        return None
    if not hmac.compare_digest(check.encode(), _check(user_id, stem, secret).encode()):
        return None
    at = int(parts[1], 16)
    return at if 0 <= at < END else None


def is_exposure(impression_id: str | None) -> bool:
    """Whether a name looks like one of ours."""
    return (impression_id or "").startswith(f"{PREFIX}-")


def shown_event_id(impression_id: str, item_id: str) -> str:
    """The event_id of an item's row in a ranking of ours."""
    return hashlib.blake2b(f"{impression_id}\x1f{item_id}".encode(), digest_size=16).hexdigest()


def shows(
    impression_id: str, user_id: str, at: int, item_ids: Sequence[str], context: Context, in_history: bool
) -> list[LiveEvent]:
    """One row an item, best first, not clicked. in_history: whether a show that was not clicked extends a history."""
    return [
        LiveEvent(
            event_id=shown_event_id(impression_id, item_id),
            revision=EVENT,
            user_id=user_id,
            item_id=item_id,
            occurred_at=at,
            label=0.0,
            role=ROLE_IMPRESSION,
            in_history=in_history,
            impression_id=impression_id,
            position=position,
            known_at=at,
            **context._asdict(),
        )
        for position, item_id in enumerate(item_ids)
    ]


def _check(user_id: str, stem: str, secret: bytes) -> str:
    return hmac.digest(secret, f"{stem}\x1f{user_id}".encode(), "sha256").hex()[:CHECK_DIGITS]
