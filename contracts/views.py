"""Which feature views are stale or incomplete online, by their limits: one rule for every command that reports it.

A view is a mapping with newest (ISO time; None without an event), lag_s (how far that is behind the log's end; None
likewise), max_lag_s, num_keys, share (of the expected keys, those present) and min_share.
"""

from collections.abc import Mapping
from typing import Any

Views = Mapping[str, Mapping[str, Any]]


def stale(views: Views) -> list[str]:
    """One line for each view whose newest event is older than its limit."""
    return [
        f"{name}: its newest event, {view['newest']}, is {view['lag_s']:,.0f} s behind the log's end; "
        f"materialize.max_lag_s is {view['max_lag_s']:,.0f}"
        for name, view in views.items()
        if view["lag_s"] is not None and view["lag_s"] > view["max_lag_s"]
    ]


def incomplete(views: Views) -> list[str]:
    """One line for each view with a smaller share of its keys than its limit."""
    return [
        f"{name}: {view['share']:.4%} of what the log has is there, {view['num_keys']:,} keys; "
        f"the limit is {view['min_share']:.4%}{' (materialize.min_user_share)' if name.startswith('user_') else ''}"
        for name, view in views.items()
        if view["share"] < view["min_share"]
    ]
