"""Definitions shared by all packages: what a click is, seconds as microseconds, ids as keys, co-click columns."""

import functools
import hashlib
from typing import Any

import numpy as np
import numpy.typing as npt

CLICKED = 0.5
"""A label at or above it is a click. This is the only definition: tests/architecture checks that there is no other."""


def is_click(labels: npt.ArrayLike) -> npt.NDArray[np.bool_]:
    """Which labels are clicks. A missing label (NaN) is not a click."""
    return np.asarray(labels) >= CLICKED


def num_clicks(labels: Any) -> int:
    """How many of a column's labels are clicks. labels: an Arrow array; null is none."""
    return int(is_click(labels.to_numpy()).sum())


def micros(seconds: float) -> int:
    """Seconds in whole microseconds."""
    return round(seconds * 1_000_000)


def counted_at(occurred_at: Any, bucket_us: int) -> Any:
    """The time (us) from which an event counts: the end of its bucket, so no count is known early; its own time for 0.

    occurred_at: whole microseconds; a number, an array or a column. Buckets begin at multiples of their length since
    1970.
    """
    if not bucket_us:
        return occurred_at
    inside = (
        occurred_at % bucket_us + bucket_us
    ) % bucket_us  # engines differ in the sign of modulo for times before 1970
    return occurred_at - inside + bucket_us


RECENT = 10
"""The newest events of a history whose clicks are compared with a candidate."""
COCLICK_SPANS = (1, 3, RECENT)
"""A candidate is compared with the last click, the last three clicks and all recent clicks."""


def coclick_columns(rank: int, context: bool) -> tuple[str, ...]:
    """The columns of encoding/coclicks.py, in order; none where rank is 0. context: the item being read is known."""
    if not rank:
        return ()
    of_spans = (f"coclick_last_{span}" for span in COCLICK_SPANS)
    return ("coclick_user", *of_spans, *(("coclick_read",) if context else ()))


CODE_WIDTH = 32
"""The largest width of co-click codes."""


def code_width(rank: int) -> int:
    """The width of co-click codes for user factors of length `rank`; 0 without factors."""
    return min(rank, CODE_WIDTH)


@functools.lru_cache(maxsize=1 << 16)
def key_of_text(text: str) -> int:
    """The int64 that replaces an event_id or a session_id in stored histories: the first 8 bytes of its MD5.

    The same in SQL: the first 16 digits of md5(text), read as a signed big-endian number.
    """
    return int.from_bytes(hashlib.md5(text.encode(), usedforsecurity=False).digest()[:8], "big", signed=True)
