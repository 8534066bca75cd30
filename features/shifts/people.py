"""Users' hops -> segments of users by how often they hop, and the sessions of a dozen users under made-up names."""

import string
from typing import Any

import numpy as np
import numpy.typing as npt

from features.shifts.themes import NO_THEME

Int64 = npt.NDArray[np.int64]
Float = npt.NDArray[np.float64]

MIN_PAIRS = 3
SEGMENTS = (("stay", 0.0, 0.25), ("mixed", 0.25, 0.75), ("hop", 0.75, 1.01))
"""Segments by the share of a user's sessions that hop to another theme."""
NUM_STRIPS, MOST_SESSIONS = 12, 40


def segments(pairs: Int64, rates: Float, user: Int64, theme: Int64, num_events: Int64) -> list[dict[str, Any]]:
    """Number of users per segment; users with too few sessions are a segment of their own. Arrays over users.

    user, theme: of the judged sessions. num_events: of each user.
    """
    known = pairs >= MIN_PAIRS
    width = int(theme.max(initial=0)) + 1
    kinds = np.bincount(np.unique(user * width + theme) // width, minlength=len(pairs))
    parts = [(name, known & (rates >= low) & (rates < high)) for name, low, high in SEGMENTS]
    parts.append((f"fewer than {MIN_PAIRS + 1} sessions", ~known))
    return [
        {
            "segment": name,
            "users": int(mask.sum()),
            "share_of_events": float(num_events[mask].sum() / max(num_events.sum(), 1)),
            "themes": float(np.median(kinds[mask])) if mask.any() else None,
            "sessions": float(np.median(pairs[mask] + 1)) if mask.any() else None,
        }
        for name, mask in parts
    ]


def strips(
    pairs: Int64, rates: Float, user: Int64, theme: Int64, num_events: Int64, started_us: Int64, shown: list[int]
) -> list[dict[str, Any]]:
    """The newest sessions of a dozen users, from the fewest hops to the most. Arrays over sessions.

    A session is [position of its theme among those shown, or null; events; day]. Names are letters; days count from
    the user's first.
    """
    enough = np.flatnonzero(
        pairs
        >= max(MIN_PAIRS, int(np.quantile(pairs[pairs >= MIN_PAIRS], 0.5)) if (pairs >= MIN_PAIRS).any() else MIN_PAIRS)
    )
    if not len(enough):
        return []
    order = enough[np.lexsort((enough, rates[enough]))]
    chosen = order[np.unique(np.linspace(0, len(order) - 1, NUM_STRIPS).round().astype(int))]
    place_of = {theme: place for place, theme in enumerate(shown)}
    told = []
    for name, each in zip(string.ascii_uppercase, chosen, strict=False):
        mine = np.flatnonzero((user == each) & (theme != NO_THEME))
        day = (started_us[mine] - started_us[mine[0]]) // 86_400_000_000
        blocks = [
            [place_of.get(int(theme[at])), int(num_events[at]), int(when)] for at, when in zip(mine, day, strict=True)
        ]
        told.append({"name": name, "hop_rate": float(rates[each]), "sessions": blocks[-MOST_SESSIONS:]})
    return told
