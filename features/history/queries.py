"""One time partition of the log -> the tables of a piece, as Ibis expressions: numbered, joined, sorted.

Ties in time are ordered by item, then by event_key, because event_ids derived from a time sort differently from day to
day. Ids are numbered by their rank within the partition, so that sorting by number equals sorting by id.
"""
# pyright: reportAttributeAccessIssue=false, reportOperatorIssue=false, reportArgumentType=false

import ibis
import ibis.expr.types as ir

from contracts import schema
from features.terms.convention import CLICKED
from features.terms.known import times_of

IN_REQUEST, MAY_BE_IN_BLOCK, HISTORY_ONLY = 0, 1, 2
"""Kinds of rows: part of a named request; may be part of a block; only extends a history."""
NO_POSITION = 2**31 - 1
"""The position of rows without one: sorts after all others."""
HEX_DIGITS = 16

LOG = "log_rows"
"""Name of the input table: one partition of validated_interactions."""

OPEN = ["user_code", "occurred_at", "item_code", "key_not_negative", "event_hex"]
IN_REQUEST_ORDER = ["place", "position", "item_code", "key_not_negative", "event_hex"]


def tables() -> dict[str, ir.Table]:
    """Tables to compute in this order, each from LOG and the previous ones: users, items, requests, rows."""
    log = ibis.table(ibis.Schema.from_pyarrow(schema.INTERACTIONS), name=LOG)
    users, items = _users(log), _items(log)
    held_users = ibis.table(users.schema(), name="users")
    requests = _requests(log, held_users)
    held = [held_users, ibis.table(items.schema(), name="items"), ibis.table(requests.schema(), name="requests")]
    return {"users": users, "items": items, "requests": requests, "rows": _rows(log, *held)}


def contents() -> dict[str, ir.Table]:
    """The tables of a piece, computed from those of `tables`."""
    held = {table: ibis.table(expression.schema(), name=table) for table, expression in tables().items()}
    users, items, requests, rows = held["users"], held["items"], held["requests"], held["rows"]
    return {
        "users": users.select("user_code", "user_id", "num_rows", "num_clicks").order_by("user_code"),
        "items": items.select("item_code", "item_id").order_by("item_code"),
        "rows": rows.order_by(OPEN).drop("user_code", "place", "key_not_negative"),
        "requests": requests.order_by("place").select(
            "user_code", "impression_id", "request_at", "num_rows", "known_at"
        ),
        "by_user": requests.order_by(["user_code", "place"]).select("user_code", "place", "request_at", "name_hex"),
        "asked": rows.filter(rows.kind == IN_REQUEST)
        .order_by(IN_REQUEST_ORDER)
        .select("item_code", "label", "position", "event_hex"),
    }


def _users(log: ir.Table) -> ir.Table:
    clicks = (log.label >= CLICKED).cast("int64").sum()
    counted = log.group_by("user_id").agg(num_rows=log.count(), num_clicks=clicks)
    return counted.mutate(user_code=_rank("user_id"))


def _items(log: ir.Table) -> ir.Table:
    return log.select("item_id").distinct().mutate(item_code=_rank("item_id"))


def _requests(log: ir.Table, users: ir.Table) -> ir.Table:
    """Named requests by (time, user, name); the time of a request is that of its earliest row in this partition."""
    named = log.filter(_has_name(log))
    _, click_at = times_of(named)
    grouped = named.group_by(["user_id", "impression_id"]).agg(
        request_at=named.occurred_at.min(),
        num_rows=named.count().cast("int32"),
        known_at=click_at.max(where=click_at > named.occurred_at),
    )
    coded = grouped.inner_join(users.select("user_id", "user_code"), "user_id")
    return coded.select(
        *(coded[name] for name in ("user_id", "user_code", "impression_id", "request_at", "num_rows", "known_at")),
        name_hex=_hex(coded.impression_id),
        place=_rank("request_at", "user_code", "impression_id"),
    )


def _rows(log: ir.Table, users: ir.Table, items: ir.Table, requests: ir.Table) -> ir.Table:
    row_at, click_at = times_of(log)
    may_be_asked = ibis.ifelse(log.role == schema.ROLE_IMPRESSION, MAY_BE_IN_BLOCK, HISTORY_ONLY)
    named = log.mutate(
        name=ibis.ifelse(_has_name(log), log.impression_id, ibis.null(str)),
        kind=ibis.ifelse(_has_name(log), IN_REQUEST, may_be_asked).cast("int8"),
        event_hex=_hex(log.event_id),
        session_hex=_hex(log.session_id),
        row_at=row_at,
        click_at=click_at,
    )
    joined = named.inner_join(users.select("user_id", "user_code"), "user_id").inner_join(items, "item_id")
    asked = requests.select("user_code", "place", name="impression_id")
    joined = joined.left_join(asked, ["user_code", "name"])
    return joined.select(
        *(joined[name] for name in ("user_code", "item_code", "occurred_at", "row_at", "click_at")),
        *(joined[name] for name in ("label", "kind", "place")),
        *(joined[name] for name in ("event_hex", "session_hex")),
        position=ibis.coalesce(joined.position, NO_POSITION).cast("int32"),
        key_not_negative=joined.event_hex < "8",
    )


def _has_name(log: ir.Table) -> ir.BooleanValue:
    return (log.role == schema.ROLE_IMPRESSION) & log.impression_id.notnull()


def _hex(text: ir.StringValue) -> ir.StringValue:
    """convention.key_of_text as 16 hexadecimal digits, which sort like its numbers except for negative ones."""
    return text.hexdigest("md5").left(HEX_DIGITS)


def _rank(*keys: str) -> ir.IntegerValue:
    return ibis.row_number().over(ibis.window(order_by=list(keys))).cast("int32")
