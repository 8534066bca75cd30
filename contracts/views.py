"""What is online of each view, beside its limits -> which views are stale, which lack keys. Said for all who judge.

A view is a mapping with newest (ISO time, None without an event), lag_s (of it behind the log's end; None as newest),
max_lag_s, num_keys, share (of the keys that the log asks for, those that are there) and min_share.
"""

from collections.abc import Mapping
from typing import Any

Views = Mapping[str, Mapping[str, Any]]


def stale(views: Views) -> list[str]:
    """One line a view whose newest event is older than its limit allows."""
    return [
        f"{name}: its newest event, {view['newest']}, is {view['lag_s']:,.0f} s behind the log's end; "
        f"materialize.max_lag_s is {view['max_lag_s']:,.0f}"
        for name, view in views.items()
        if view["lag_s"] is not None and view["lag_s"] > view["max_lag_s"]
    ]


def incomplete(views: Views) -> list[str]:
    """One line a view that holds less of its keys than its limit allows."""
    return [
        f"{name}: {view['share']:.4%} of what the log has is there, {view['num_keys']:,} keys; "
        f"the limit is {view['min_share']:.4%}{' (materialize.min_user_share)' if name.startswith('user_') else ''}"
        for name, view in views.items()
        if view["share"] < view["min_share"]
    ]
