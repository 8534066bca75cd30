"""Many partitions -> at most as many as a chart can show: neighbours together, counts added, rates weighed by rows."""

from collections.abc import Mapping, Sequence
from typing import Any

MOST_POINTS = 62
ADDED = ("rows_in", "rows_valid", "rows_quarantined", "rows_duplicated", "clicks", "requests", "negative_ids")
LARGEST = (
    "longest_gap_s",
    "longest_gap_share",
    "silent_at_end_s",
    "most_per_minute",
    "busiest_user_share",
    "missing_before",
    "users",
    "items",
)


def grouped(partitions: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The partitions themselves where they are few; else groups of neighbours, named after the first of each."""
    size = -(-len(partitions) // MOST_POINTS)
    if size <= 1:
        return [dict(row) for row in partitions]
    return [_together(partitions[start : start + size]) for start in range(0, len(partitions), size)]


def _together(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    told: dict[str, Any] = {"partition": rows[0]["partition"], "last_at": rows[-1]["last_at"]}
    for name in rows[0]:
        if name in told or name == "first_at":
            continue
        known = [(row[name], row["rows_in"]) for row in rows if row[name] is not None]
        if name in ADDED:
            told[name] = sum(value for value, _ in known)
        elif name in LARGEST:
            told[name] = max((value for value, _ in known), default=None)
        else:
            told[name] = sum(value * num for value, num in known) / sum(num for _, num in known) if known else None
    return told
