"""GET /users/{id}/themes and GET /users: a user's sessions with their themes, the current themes, and the ids of users.

An event has the theme to which the model routes it; a session has the most frequent theme of its events, and of equally
frequent themes that of the newest event. Sessions follow the rule of features/terms/sessions.py.
"""

from itertools import islice, pairwise
from typing import Annotated

import numpy as np
import numpy.typing as npt
from pydantic import Field

from serving.answering.predictor import Predictor
from serving.answering.replies import ActiveTheme, EventView, SessionView, ThemesReply, UsersReply
from serving.answering.requests import Id, Message, ThemeShare, Time, check_id, to_iso, to_microseconds
from serving.bundle.reading import read_codes
from serving.bundle.scorer import NO_EVENTS, Events

Int64 = npt.NDArray[np.int64]

NO_THEME = -1
MAX_EVENTS = 200
"""How many of the newest events an answer lists."""
MAX_USERS = 1000
FORGOTTEN_AT_ONCE = 200


class ThemesRequest(Message):
    """The user, and the time as of which: only events before `at` are read. null: now."""

    user_id: Id
    at: Time | None = None


class UsersRequest(Message):
    """List users whose id begins with a prefix."""

    prefix: str = ""
    limit: Annotated[int, Field(ge=1, le=MAX_USERS)] = 20


def user_themes(predictor: Predictor, request: ThemesRequest) -> ThemesReply:
    """The answer of GET /users/{id}/themes; all lists are empty for an unknown user."""
    check_id(("user_id",), request.user_id, predictor.limits, "ThemesRequest")
    predictor.store.refresh()
    scorer = predictor.bundle.scorer
    at = predictor.clock() if request.at is None else to_microseconds(request.at)
    events = predictor.events(request.user_id)
    known = (events or NO_EVENTS).between(0, 0 if events is None else scorer.known_events(events, at))
    theme_E, current = _routed(predictor, known, at)
    names = predictor.bundle.theme_names
    sessions = _sessions(known, theme_E, names)
    return ThemesReply.model_construct(
        user_id=request.user_id,
        at=to_iso(at),
        cold_start_user=not len(known.item_ids),
        current=current,
        active=_active(sessions, names),
        sessions=sessions,
        events=_listed(known, theme_E),
    )


def users(predictor: Predictor, request: UsersRequest) -> UsersReply:
    """The answer of GET /users, without users who asked to be forgotten."""
    predictor.store.refresh()
    found: list[str] = []
    begun = predictor.store.user_ids(request.prefix)
    while len(found) < request.limit and (some := list(islice(begun, FORGOTTEN_AT_ONCE))):
        gone = predictor.store.tail.forgotten(some)
        found += [name for name, is_gone in zip(some, gone, strict=True) if not is_gone]
    return UsersReply.model_construct(users=found[: request.limit])


def _routed(predictor: Predictor, known: Events, at: int) -> tuple[Int64, list[ThemeShare]]:
    """[E] the theme of each known event, NO_THEME if it has none; and the user's current themes."""
    scorer = predictor.bundle.scorer
    if not len(known.item_ids) or not scorer.model.has_router:
        return np.full(len(known.item_ids), NO_THEME), []
    first = max(0, len(known.item_ids) - scorer.spec.history_length)
    older, newest = known.between(0, first), known.between(first, len(known.item_ids))
    codes, older_codes = read_codes(scorer, predictor.store, newest, older.item_ids, at)
    encoded = scorer.encode(newest, at)
    of_older = scorer.themes(scorer.item_index(older.item_ids), older_codes)  # older than the history the model reads
    routing_ET = np.concatenate([of_older, scorer.routing(encoded, codes)[encoded.mask[0]]])
    current_T = scorer.user_side(newest, at, codes).current_UT[0].cpu().numpy()
    theme_E = np.where(routing_ET.max(axis=1) > 0, routing_ET.argmax(axis=1), NO_THEME)
    return theme_E, predictor.theme_shares(current_T)


def _listed(known: Events, theme_E: Int64) -> list[EventView]:
    newest = slice(-MAX_EVENTS, None)
    rows = zip(known.item_ids[newest], known.occurred_at[newest].tolist(), theme_E[newest].tolist(), strict=True)
    return [
        EventView.model_construct(item_id=item_id, occurred_at=to_iso(at), theme=_or_null(theme))
        for item_id, at, theme in rows
    ]


def _sessions(known: Events, theme_E: Int64, names: list[str]) -> list[SessionView]:
    found: list[SessionView] = []
    last, had = NO_THEME, set[int]()
    opens = np.flatnonzero(np.diff(known.session, prepend=-1))  # sessions are numbered from 0
    for begin, end in pairwise([*opens, len(theme_E)]):
        theme, share = _commonest(theme_E[begin:end])
        hopped = NO_THEME not in (theme, last) and theme != last
        found.append(
            SessionView.model_construct(
                started_at=to_iso(int(known.occurred_at[begin])),
                ended_at=to_iso(int(known.occurred_at[end - 1])),
                num_events=int(end - begin),
                theme=_or_null(theme),
                name=None if theme == NO_THEME else names[theme],
                share=share,
                hopped=hopped,
                returned=hopped and theme in had,
            )
        )
        if theme != NO_THEME:
            last = theme
            had.add(theme)
    return found


def _commonest(theme_E: Int64) -> tuple[int, float]:
    """The most frequent theme and its share of all events; of equally frequent themes that of the newest event."""
    newest_first = theme_E[::-1]
    newest_first = newest_first[newest_first != NO_THEME]
    if not len(newest_first):
        return NO_THEME, 0.0
    themes, first, counts = np.unique(newest_first, return_index=True, return_counts=True)
    best = np.lexsort((first, -counts))[0]
    return int(themes[best]), float(counts[best] / len(theme_E))


def _active(sessions: list[SessionView], names: list[str]) -> ActiveTheme | None:
    active: SessionView | None = None
    for session in reversed(sessions):
        if session.theme is None:
            continue
        if active is not None and session.theme != active.theme:
            break
        active = session
    if active is None or active.theme is None:
        return None
    return ActiveTheme.model_construct(theme=active.theme, name=names[active.theme], since=active.started_at)


def _or_null(theme: int) -> int | None:
    return None if theme == NO_THEME else theme
