"""An example request and answer of each route, for the OpenAPI document."""

from typing import Any, NamedTuple


class Example(NamedTuple):
    """asked: the body, or the fields of path and query. reply: the answer."""

    asked: dict[str, Any]
    reply: Any


SNAPSHOT = "c6f39a4c4f6bd4ab6b1ae1a35a6bd3a8a3ff3a4b4ea6ef2a0e1d2f87e7a9b9c1"
REASONS = {
    "contributions": {"base": -0.61, "theme": 1.69, "short": 0.77, "global": -0.07},
    "history": [{"item_id": "i01923", "occurred_at": "2024-01-08T07:15:26.390000Z", "share": 0.04}],
}
RANK = Example(
    {"user_id": "u00042", "candidates": ["i01923", "i00001", "nope"], "k": 1, "preview": True, "explain": True},
    {
        "user_id": "u00042",
        "at": "2024-01-22T00:02:57.983670Z",
        "items": [
            {
                "item_id": "i01923",
                "score": 0.8557,
                "theme": 0,
                "theme_name": "comedy, romance",
                "match": 0.31,
                "known": True,
                "reasons": REASONS,
            }
        ],
        "themes": [{"theme": 0, "name": "comedy, romance", "share": 0.32}],
        "history": {
            "known": True,
            "length": 504,
            "newest_event_at": "2024-01-08T07:15:26.390000Z",
            "store_away": False,
        },
        "cold_start_user": False,
        "cold_start_items": ["nope"],
        "impression_id": None,
        "model_version": "3f2a9c41d07b",
        "snapshot_id": SNAPSHOT,
    },
)
RECOMMEND = Example(
    {"user_id": "u00042", "k": 1, "diversity": 0.3, "preview": True},
    RANK.reply | {"items": [RANK.reply["items"][0] | {"reasons": None, "source": "theme"}], "cold_start_items": []},
)
EVENTS = Example(
    {"events": [{"user_id": "u00042", "item_id": "i01923", "event_id": "click-7"}]},
    {"events": [{"event_id": "click-7", "fate": "new", "differs": []}], "num_new": 1},
)
USERS = Example({"prefix": "u0004", "limit": 2}, {"users": ["u00040", "u00042"]})
THEMES = Example(
    {"user_id": "u00042", "at": "2024-01-22T00:00:00Z"},
    {
        "user_id": "u00042",
        "at": "2024-01-22T00:00:00Z",
        "cold_start_user": False,
        "current": [{"theme": 0, "name": "comedy, romance", "share": 0.32}],
        "active": {"theme": 0, "name": "comedy, romance", "since": "2024-01-08T07:05:54.721000Z"},
        "sessions": [
            {
                "started_at": "2024-01-08T07:05:54.721000Z",
                "ended_at": "2024-01-08T07:15:26.390000Z",
                "num_events": 43,
                "theme": 0,
                "name": "comedy, romance",
                "share": 0.56,
                "hopped": True,
                "returned": True,
            }
        ],
        "events": [{"item_id": "i01923", "occurred_at": "2024-01-08T07:15:26.390000Z", "theme": 0}],
    },
)
KNOWN = {"item_id": "i01923", "title": "The Apartment", "theme": 0, "theme_name": "comedy, romance"}
ITEMS = Example({"ids": ["i01923"]}, {"items": [KNOWN | {"categories": ["comedy", "romance"], "known": True}]})
SIMILAR = Example({"item_id": "i00001", "k": 1}, {"item_id": "i00001", "items": [KNOWN | {"similarity": 0.87}]})
BESIDE = {"name": "runner_up", "model": "din", "model_version": "3f2a9c41d07b-din", "theme_names": []}
INFO = Example(
    {},
    {
        "model_version": "3f2a9c41d07b",
        "snapshot_id": SNAPSHOT,
        "clock": "log_end",
        "num_items": 2500,
        "model": "mos",
        "beside": [BESIDE],
    },
)
NOTHING = Example({}, None)
