"""A user and a time -> their sessions with the theme of each, and where they are now; and which users there are.

An event has the theme to which the model routes it; a session has the most frequent theme of its events, at a tie that
of the newer event. Sessions follow the rule of features/terms/sessions.py.
"""

from itertools import islice, pairwise
from typing import Annotated

import numpy as np
import numpy.typing as npt
from pydantic import Field

from serving.answering.predictor import Predictor
from serving.answering.requests import Id, Message, Moment, ThemeShare, Time, check_id, to_iso, to_microseconds
from serving.bundle.reading import read_codes
from serving.bundle.scorer import NO_EVENTS, Events

Int64 = npt.NDArray[np.int64]

NO_THEME = -1
MAX_EVENTS = 200
"""The newest events that an answer lists one by one."""
MAX_USERS = 1000
FORGOTTEN_AT_ONCE = 200


class ThemesRequest(Message):
    """Whose themes, and as of when: events at or after `at` are as if they did not exist. null: now."""

    user_id: Id
    at: Time | None = None


class SessionView(Message):
    """One session. share: of its events, those of its theme."""

    started_at: Moment
    ended_at: Moment  # its newest event
    num_events: int
    theme: int | None  # null where no event of it belongs to one
    name: str | None
    share: float
    hopped: bool  # another theme than the session before; sessions without a theme stand between nothing
    returned: bool  # hopped, to a theme that an earlier session had


class ActiveTheme(Message):
    """The theme of the newest session that has one. since: the start of the first session of it in a row."""

    theme: int
    name: str
    since: Moment


class EventView(Message):
    """One event and the theme to which it was routed."""

    item_id: str
    occurred_at: Moment
    theme: int | None


class ThemesReply(Message):
    """The stored history by sessions, oldest first."""

    user_id: str
    at: Moment
    cold_start_user: bool  # nothing was known of the user: all that follows is empty
    current: list[ThemeShare]  # as in /rank's `themes`
    active: ActiveTheme | None
    sessions: list[SessionView]
    events: list[EventView]  # the newest 200


class UsersRequest(Message):
    """Users whose id begins so."""

    prefix: str = ""
    limit: Annotated[int, Field(ge=1, le=MAX_USERS)] = 20


class UsersReply(Message):
    """Ids of the log, as the online store has them, then of those who came live."""

    users: list[str]


def user_themes(predictor: Predictor, request: ThemesRequest) -> ThemesReply:
    """Of a user nobody knows all lists are empty."""
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
    """Those who asked to be forgotten are not among them."""
    predictor.store.refresh()
    found: list[str] = []
    begun = predictor.store.user_ids(request.prefix)
    while len(found) < request.limit and (some := list(islice(begun, FORGOTTEN_AT_ONCE))):
        gone = predictor.store.tail.forgotten(some)
        found += [name for name, is_gone in zip(some, gone, strict=True) if not is_gone]
    return UsersReply.model_construct(users=found[: request.limit])


def _routed(predictor: Predictor, known: Events, at: int) -> tuple[Int64, list[ThemeShare]]:
    """[E] the theme of each known event, NO_THEME where it has none; and where the user is now."""
    scorer = predictor.bundle.scorer
    if not len(known.item_ids) or not scorer.model.has_router:
        return np.full(len(known.item_ids), NO_THEME), []
    first = max(0, len(known.item_ids) - scorer.spec.history_length)
    older, newest = known.between(0, first), known.between(first, len(known.item_ids))
    codes, older_codes = read_codes(scorer, predictor.store, newest, older.item_ids, at)
    encoded = scorer.encode(newest, at)
    of_older = scorer.themes(scorer.item_index(older.item_ids), older_codes)  # beyond what the model reads
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
    """The theme of most events and their share of all; of equally common ones that of the newest event."""
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
