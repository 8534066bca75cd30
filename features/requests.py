"""Events without an impression -> blocks that stand for requests; rows of requests -> the offset that each may see."""
# pyright: reportAttributeAccessIssue=false, reportOperatorIssue=false

import ibis
import ibis.expr.types as ir
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc


def block_starts(
    user_index: npt.NDArray[np.integer], occurred_at: npt.NDArray[np.integer], size: int, span_us: int
) -> npt.NDArray[np.int64]:
    """Where each block begins: up to `size` events of one user, none later than `span_us` after the block's first.

    user_index, occurred_at (us): events sorted by (user, time).
    """
    num_events = len(user_index)
    length = np.ones(num_events, np.int64)
    for ahead in range(1, min(size, num_events)):
        same = user_index[ahead:] == user_index[:-ahead]
        length[:-ahead] += same & (occurred_at[ahead:] - occurred_at[:-ahead] <= span_us)
    starts, position = [], 0
    steps = length.tolist()
    while position < num_events:
        starts.append(position)
        position += steps[position]
    return np.array(starts, np.int64)


def name_blocks(events: pa.Table, user_ids: pa.Array, size: int, span_us: int) -> pa.Table:
    """Events (user_index, occurred_at, event_id) in order -> (event_id, block): "<user_id>/<ordinal>", from 0."""
    users = events["user_index"].to_numpy()
    starts = block_starts(users, pc.cast(events["occurred_at"], pa.int64()).to_numpy(), size, span_us)
    starts_user = users[starts]
    first = np.searchsorted(starts_user, starts_user, side="left")
    ordinals = pa.array(np.arange(len(starts)) - first).cast(pa.string())
    names = pc.binary_join_element_wise(user_ids.take(pa.array(starts_user)), ordinals, "/")
    block_of = np.repeat(np.arange(len(starts)), np.diff(np.r_[starts, len(users)]))
    return pa.table({"event_id": events["event_id"], "block": names.take(pa.array(block_of))})


def group_requests(rows: ir.Table) -> ir.Table:
    """Rows with an impression_id -> one row a request: its user and its time t, the earliest of its rows."""
    return rows.group_by(["user_index", "impression_id"]).agg(request_at=rows.occurred_at.min())


def with_end_offset(requests: ir.Table, events: ir.Table, lag_us: int) -> ir.Table:
    """Add end_offset: how many of the user's events are strictly before request_at - lag; ties are never among them."""
    cuts = requests.mutate(
        at=requests.request_at - ibis.interval(microseconds=lag_us),
        is_event=ibis.literal(0, "int64"),
    )
    marks = events.select(
        "user_index",
        impression_id=ibis.literal(None, "string"),
        request_at=events.occurred_at,
        at=events.occurred_at,
        is_event=ibis.literal(1, "int64"),
    )
    both = cuts.select(marks.columns).union(marks)
    in_order = ibis.cumulative_window(group_by="user_index", order_by="at")
    running = both.mutate(before=both.is_event.sum().over(in_order) - both.is_event)
    tied = ibis.window(group_by=["user_index", "at"])
    counted = running.mutate(end_offset=running.before.min().over(tied))
    return counted.filter(counted.is_event == 0).select("user_index", "impression_id", "request_at", "end_offset")
