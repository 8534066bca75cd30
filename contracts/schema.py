"""The columns of every table between stages, as Arrow schemas. Times are UTC in microseconds, ids strings as given."""

import pyarrow as pa

PADDING_INDEX = 0
"""item_index of a padded history slot."""
UNKNOWN_INDEX = 1
"""item_index of an item that the vocabulary does not hold."""
FIRST_INDEX = 2
"""item_index of the first known item."""

ROLE_IMPRESSION = "impression"
"""An impression: a row that may be trained on."""
ROLE_HISTORY = "history"
"""A row that only extends a history."""

TIME = pa.timestamp("us", tz="UTC")


def _required(name: str, kind: pa.DataType) -> pa.Field:
    return pa.field(name, kind, nullable=False)


INTERACTIONS = pa.schema(
    [
        _required("event_id", pa.string()),  # unique name of the row
        pa.field("user_id", pa.string()),  # who
        pa.field("item_id", pa.string()),  # what was shown, and perhaps clicked
        pa.field("occurred_at", TIME),  # when, in UTC
        pa.field("label", pa.float32()),  # 1 clicked, 0 shown but not clicked
        pa.field("impression_id", pa.string()),  # one request; null where the log has none
        pa.field("position", pa.int32()),  # its place in the list that was shown; null where the log has none
        pa.field("session_id", pa.string()),  # the log's own name of the visit; null where it has none
        _required("role", pa.string()),  # impression: may be trained on; history: only extends a history
        pa.field("known_at", TIME),  # when its click became known; null: the log does not say
        pa.field("arrived_at", TIME),  # when the row itself became known; null: at its own time
    ]
)
"""interactions/ and validated_interactions/<partition>.parquet, sorted by (occurred_at, event_id)."""

ITEMS = pa.schema(
    [
        _required("item_id", pa.string()),  # the catalogue's own id
        pa.field("title", pa.string()),  # null where the log has none
        _required("categories", pa.list_(pa.string())),  # of the catalogue; empty where it has none
        pa.field("published_at", TIME),  # null where the log does not say
        pa.field("embedding", pa.list_(pa.float32())),  # dense, of one length; null where an item has none
    ]
)
"""items/items.parquet, sorted by item_id; every item_id of interactions is present."""

CONTEXTS = pa.schema(
    [
        _required("impression_id", pa.string()),  # the request
        pa.field("device", pa.string()),  # the log's own name of a kind of device
        pa.field("is_subscriber", pa.bool_()),  # whether the user had a subscription then; null: not recorded
        pa.field("reading_item_id", pa.string()),  # the item on whose page the request was made; null on a front page
    ]
)
"""contexts/contexts.parquet, sorted by impression_id: the context of requests; empty if the log has none."""

REJECTED = pa.schema(
    [
        _required("file", pa.string()),  # that it was read from
        _required("line", pa.int64()),  # from 1, header included; the row's number in Parquet; 0 without a file
        _required("reason", pa.string()),  # why it is no event of its own
        _required("raw", pa.string()),  # its text as it stands in the file
    ]
)
"""rejected/rejected.parquet: rows that are no event of their own: not parsed, joined to
another row, or of a forgotten user. rejected/items.parquet: those of a file of items,
which are no events and no part of the ledger. Both sorted by (file, line, reason)."""

PROVENANCE = pa.schema(
    [
        _required("event_id", pa.string()),  # unique name of the row
        _required("file", pa.string()),  # that it was read from
        _required("line", pa.int64()),  # from 1, header included
    ]
)
"""provenance/<partition>.parquet: the source file and line of each event, in the row order of interactions/."""

QUARANTINE = pa.schema(
    [
        *INTERACTIONS,
        _required("reason", pa.string()),  # the first rule that it breaks
        *list(PROVENANCE)[1:],
    ]
)
"""quarantine/quarantine.parquet: rows refused by validate, with the first reason that applies, source file and line."""

LEDGER = pa.schema(
    [
        _required("stage", pa.string()),  # that decided
        _required("what", pa.string()),  # the fate: why a row was left out, or what it is used for
        _required("rows", pa.int64()),  # how many rows have it
    ]
)
"""ledger/ledger.parquet: every row read, once: its fate by stage and reason."""

LIVE = pa.schema(
    [
        _required("seq", pa.int64()),  # order of acknowledgement
        _required("event_id", pa.string()),
        _required("revision", pa.int8()),  # 0 an event; 1 the outcome of the show with this event_id
        _required("user_id", pa.string()),
        _required("item_id", pa.string()),
        _required("occurred_at", TIME),
        _required("label", pa.float32()),
        _required("role", pa.string()),
        *[INTERACTIONS.field(name) for name in ("impression_id", "position", "session_id")],
        *[CONTEXTS.field(name) for name in ("device", "is_subscriber", "reading_item_id")],
        pa.field("known_at", TIME),  # when it was acknowledged, on the clock of requests; null: not recorded
    ]
)
"""live/<source>/<day>.parquet (of SQLite) and <day>.redis.parquet: live events that `make absorb` sealed, by the day of
acknowledgement, sorted by seq."""

IMPRESSIONS = pa.schema(
    [
        _required("request_index", pa.int32()),  # dense, in order of (occurred_at, user_id, impression_id)
        _required("user_index", pa.int32()),  # of user_histories/users.parquet
        _required("item_index", pa.int32()),  # of user_histories/vocabulary.parquet
        _required("occurred_at", TIME),  # the request's time t
        _required("label", pa.float32()),  # 1 clicked, 0 shown but not clicked
        _required("end_offset", pa.int32()),  # events of this user strictly before t - history.lag_s
    ]
)
"""impressions/impressions.parquet, sorted by (request_index, position, item_id)."""

REQUESTS = pa.schema(
    [
        _required("request_index", pa.int32()),
        _required("impression_id", pa.string()),  # the log's own name, or <user_id>/<ordinal> where it has none
        pa.field("device", pa.string()),
        pa.field("is_subscriber", pa.bool_()),
        pa.field("reading_item_id", pa.string()),  # as in contexts
        pa.field("known_at", TIME),  # when its last late row or click became known; null: none was late
    ]
)
"""impressions/requests.parquet, sorted by request_index: name and context of each request."""

SESSIONS = pa.schema(
    [
        _required("user_index", pa.int32()),  # of user_histories/users.parquet
        _required("session", pa.int32()),  # number among the user's sessions, from 0
        _required("started_at", TIME),  # of its first event
        _required("ended_at", TIME),  # of its last event
        _required("num_events", pa.int32()),  # of the history
    ]
)
"""sessions/sessions.parquet, one row per session of the history, sorted by (user_index, session)."""

USERS = pa.schema([_required("user_index", pa.int32()), _required("user_id", pa.string())])
"""user_histories/users.parquet; user_index is the rank of user_id from 0."""

VOCABULARY = pa.schema(
    [
        _required("item_index", pa.int32()),
        _required("item_id", pa.string()),
        _required("categories", pa.list_(pa.string())),
    ]
)
"""user_histories/vocabulary.parquet; item_index is FIRST_INDEX + the rank of item_id."""


def counters(*keys: str) -> pa.Schema:
    """Cumulative counts, one row per (key, time) at which something happened, that time included.

    To read as of t - lag, take the last row strictly before that time. <table>/<partition>.parquet: a row lies in the
    partition of its own occurred_at and counts from the log's start; each file is sorted by (keys, occurred_at).
    """
    return pa.schema(
        [
            *(_required(key, pa.string()) for key in keys),
            _required("occurred_at", TIME),  # when something happened; the counts include it
            _required("shows", pa.int64()),  # since the log's start
            _required("clicks", pa.int64()),  # since the log's start
        ]
    )


ITEM_COUNTERS = counters("item_id")
"""Of rows of role impression only: what a history adds comes without the shows that were not clicked."""
USER_COUNTERS = counters("user_id")
USER_ITEM_COUNTERS = counters("user_id", "item_id")

COCLICK_CLICKS = pa.schema(
    [
        _required("item_id", pa.string()),  # what was clicked
        _required("occurred_at", TIME),  # when, in UTC
        _required("user_id", pa.string()),  # who
    ]
)
"""coclicks/clicks.parquet: every click of role impression; history_clicks.parquet: the others. Sorted by all."""


def coclick_factors(rank: int, width: int) -> pa.Schema:
    """coclicks/factors.parquet: a user's factor and code of clicks before starts_at; sorted by (starts_at, user_id)."""
    factor, code = (pa.list_(pa.field("item", pa.int8(), nullable=False), length) for length in (rank, width))
    users = [_required("starts_at", TIME), _required("user_id", pa.string())]
    return pa.schema([*users, _required("factor", factor), _required("code", code)])


USER_HISTORY_SNAPSHOT = pa.schema(
    [
        _required("user_id", pa.string()),  # who
        _required("event_timestamp", TIME),  # the newest event
        _required("item_ids", pa.list_(pa.string())),  # oldest first, at most history.max_length
        _required("occurred_at", pa.list_(pa.int64())),  # microseconds since 1970
        _required("labels", pa.list_(pa.float32())),  # 1 clicked, 0 shown but not clicked
        _required("sessions", pa.list_(pa.int64())),  # from 0 at the first of these events
        _required("event_keys", pa.list_(pa.int64())),  # convention.key_of_text of each event_id
        _required("session_keys", pa.list_(pa.int64())),  # of the source's session_id; 0 where it has none
    ]
)
"""feature_snapshot/user_history.parquet: what Feast serves. Ids, not indices, so that any bundle can read it."""
