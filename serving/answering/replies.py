"""The answers of /items, /users and /recommend; those of /rank and /events are in requests.py.

The client reads them, so nothing is imported here that a client does not need.
"""

from typing import Literal

from serving.answering.requests import Message, Moment, RankedItem, RankReply, ThemeShare

Source = Literal["theme", "popular", "new"]


class CatalogueItem(Message):
    """What is known of an item."""

    item_id: str
    title: str | None
    categories: list[str]
    theme: int | None  # its main theme now; null if the model knows nothing of the item, or has no themes
    theme_name: str | None
    known: bool  # whether the item is in the model's vocabulary


class ItemsReply(Message):
    """One entry per id, in the order of the request."""

    items: list[CatalogueItem]


class SimilarItem(Message):
    """One neighbour."""

    item_id: str
    similarity: float  # the cosine of the two items' vectors in the model, in [-1, 1]
    theme: int | None
    theme_name: str | None
    title: str | None


class SimilarReply(Message):
    """Nearest first."""

    item_id: str
    items: list[SimilarItem]


class SessionView(Message):
    """One session. share: of its events that have its theme, in [0, 1]."""

    started_at: Moment
    ended_at: Moment  # the time of its newest event
    num_events: int
    theme: int | None  # null if none of its events belongs to a theme
    name: str | None
    share: float
    hopped: bool  # true: its theme differs from that of the last earlier session that has one
    returned: bool  # true: hopped to a theme that an earlier session had


class ActiveTheme(Message):
    """The theme of the newest session that has one. since: when the unbroken run of sessions with it began."""

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
    cold_start_user: bool  # no event of the user was known: all that follows is empty
    current: list[ThemeShare]  # as in /rank's `themes`
    active: ActiveTheme | None
    sessions: list[SessionView]
    events: list[EventView]  # the newest 200


class UsersReply(Message):
    """Ids of users: first those of the loaded log, in the online store's order, then those known from live events."""

    users: list[str]


class RecommendedItem(RankedItem):
    """One item of the answer."""

    source: Source  # why it was a candidate: near the events of a current theme, popular now, or new


class RecommendReply(RankReply):
    """As in /rank. cold_start_items: only those among the items answered."""

    items: list[RecommendedItem]  # pyright: ignore[reportIncompatibleVariableOverride]
