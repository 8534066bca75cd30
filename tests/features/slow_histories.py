"""Histories, requests and their fates by going through the rows of a log one by one: what the stage must make."""

from collections import Counter
from collections.abc import Sequence
from datetime import timedelta
from typing import Any, NamedTuple

from contracts.schema import FIRST_INDEX
from features.terms.convention import key_of_text, micros
from features.terms.params import HistoryParams, RequestParams
from tests.features.small_log import START, START_US, Row


class Slow(NamedTuple):
    """user_id -> its events (item_id, us, label, session, event key, session key); requests; fates; sessions."""

    events: dict[str, list[tuple]]
    requests: list[tuple[int, str, str, int, list[tuple[str, float]]]]  # us, user, name, end_offset, candidates
    fates: Counter[str]
    num_sessions: int


def slowly(rows: Sequence[Row], request: RequestParams, history: HistoryParams) -> Slow:
    """rows: with their event_id."""
    users: dict[str, list[Row]] = {}
    for each in sorted(rows, key=lambda each: (_us(each), each["item_id"], key_of_text(each["event_id"]))):
        users.setdefault(each["user_id"], []).append(each)
    log_end = max(map(_us, rows))
    keep_from = -(2**62) if history.retention_s is None else log_end - micros(history.retention_s)
    found = Slow({}, [], Counter(), 0)
    for user_id in sorted(users):
        own = users[user_id]
        events = [each for each in own if _is_event(each, history)]
        kept = [each for each in events if _us(each) >= keep_from]
        found.events[user_id] = _with_sessions(kept, history)
        asked = _requests(user_id, own, request)
        for name, members in asked.items():
            at = min(map(_us, members))
            end = sum(_us(each) < at - micros(history.lag_s) for each in kept)
            found.requests.append((at, user_id, name, end, _candidates(members)))
        in_request = {each["event_id"] for members in asked.values() for each in members}
        for each in own:
            found.fates[_fate(each, in_request, events, kept)] += 1
    sessions = sum(len({event[3] for event in events}) for events in found.events.values())
    return found._replace(requests=sorted(found.requests, key=lambda each: each[:3]), num_sessions=sessions)


def _us(row: Row) -> int:
    return START_US + (row["occurred_at"] - START) // timedelta(microseconds=1)


def _is_event(row: Row, history: HistoryParams) -> bool:
    return row["label"] >= 0.5 or row["role"] == "history" or history.labels == "all"


def _with_sessions(events: Sequence[Row], history: HistoryParams) -> list[tuple]:
    """The rule event by event: neighbours that both have the log's session are together if it is the same; else a gap
    of more than session_gap_s parts them, and so does every multiple of session_max_s since 1970."""
    made: list[tuple] = []
    session = -1
    before: Row | None = None
    for each in events:
        stated = before is not None and before["session_id"] is not None and each["session_id"] is not None
        if before is None:
            opens = True
        elif stated:
            opens = each["session_id"] != before["session_id"]
        else:
            opens = _us(each) - _us(before) > micros(history.session_gap_s)
            if history.session_max_s is not None:
                opens |= len({_us(row) // micros(history.session_max_s) for row in (before, each)}) > 1
        session, before = session + opens, each
        keys = key_of_text(each["event_id"]), 0 if each["session_id"] is None else key_of_text(each["session_id"])
        made.append((each["item_id"], _us(each), each["label"], session, *keys))
    return made


def _requests(user_id: str, own: Sequence[Row], request: RequestParams) -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = {}
    block: list[Row] = []
    blocks: list[list[Row]] = []
    for each in own:
        if each["role"] != "impression":
            continue
        if each["impression_id"] is not None:
            found.setdefault(each["impression_id"], []).append(each)
        elif len(own) >= request.min_user_events:
            if not block or len(block) == request.block_size or _us(each) - _us(block[0]) > micros(request.block_s):
                block = []
                blocks.append(block)
            block.append(each)
    return found | {f"{user_id}/{ordinal}": members for ordinal, members in enumerate(blocks)}


def _candidates(members: Sequence[Row]) -> list[tuple[str, float]]:
    def order(each: Row) -> tuple[Any, ...]:
        position = each["position"]
        return position is None, position or 0, each["item_id"], key_of_text(each["event_id"])

    return [(each["item_id"], each["label"]) for each in sorted(members, key=order)]


def _fate(row: Row, in_request: set[str], events: Sequence[Row], kept: Sequence[Row]) -> str:
    if row["event_id"] in in_request:
        return "in a request"
    if row in kept:
        return "in a history only"
    return "older than history.retention_s" if row in events else "neither: unclicked, in no request"


def item_index(rows: Sequence[Row]) -> dict[str, int]:
    """The index of each item of a log."""
    return {item: number + FIRST_INDEX for number, item in enumerate(sorted({each["item_id"] for each in rows}))}
