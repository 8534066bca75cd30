"""The typed sections of params.yaml for the data side, from source to Feast."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, NonNegativeInt, PositiveInt, Strict, model_validator

from contracts.section import Distinct, Section, Seed, Several

LONGEST_S = 100 * 365 * 86_400
Seconds = Annotated[float, Field(ge=0, le=LONGEST_S)]
Duration = Annotated[float, Field(gt=0, le=LONGEST_S)]
Share = Annotated[float, Field(ge=0, le=1)]


def _in_utc(at: datetime) -> datetime:
    return at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)


def _no_number(value: object) -> object:
    if isinstance(value, int | float):
        raise ValueError("a time is written as ISO text")
    return value


Moment = Annotated[datetime, Strict(False), AfterValidator(_in_utc), BeforeValidator(_no_number)]
"""A time; without a zone it is UTC."""


BUILT_IN = ("simulator", "movielens", "ebnerd")
"""Sources whose default id is their name."""
FINGERPRINT = "[0-9a-f]{12}"
LOCKS = "locks"
SAY_ID = (
    "since a log is more than the word `table`, it has a short name of its own: write `id: <name>` below `name:`; the "
    "value of source.name there keeps the folders and live events that were made before"
)
LogId = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$")]
"""Valid as the name of a folder or file on any system, and as part of a Redis key."""
CLICKS_ALONE = (
    "Map source.columns.label if a column tells them apart, raise source.label_threshold, or let unclicked items be "
    'sampled: make set ARGS="source.negatives=4".'
)
"""What to do with a log in which every row is a click."""


class ColumnParams(Section):
    """The table's name for each of our columns; null if it has none. With a null `label` every row is a click."""

    user_id: str | None
    item_id: str | None
    occurred_at: str | None
    label: str | None
    impression_id: str | None
    position: str | None
    session_id: str | None
    event_id: str | None
    known_at: str | None  # as occurred_at: when the row's click became known
    title: str | None
    categories: str | None  # one value, or several joined by "|", or a list
    published_at: str | None  # as occurred_at
    embedding: str | None  # a list of numbers, or one as text: [0.1, -2]


READ_BY: Mapping[str, tuple[str, ...]] = {
    "simulator": ("simulator",),
    "source.columns": ("table",),
    "source.format": ("table",),
    "source.null_words": ("movielens", "table"),
    "source.label_threshold": ("movielens", "table"),
    "source.time_unit": ("table",),
}
"""Keys that not every source reads -> the sources that do. Choosing another source resets them to the values of
presets/simulator.yaml (orchestration.configure), so that ingest, which depends on these sections, stays unchanged."""


class SourceParams(Section):
    """Where the raw interactions come from."""

    name: Literal["simulator", "movielens", "ebnerd", "table"]
    id: Annotated[LogId, Field(description=SAY_ID)]  # names the log's folders, in data/, live/, .state/ and others
    path: str  # a file or folder; the simulator's is its own program
    same_as: Annotated[str, Field(pattern=f"^{FINGERPRINT}-{FINGERPRINT}$")] | None  # of features.sealed.log_id
    columns: ColumnParams  # table only
    time_unit: Literal["s", "ms", "us", "iso"]  # table only
    format: Literal["auto", "csv", "tsv", "semicolon", "pipe", "double_colon", "parquet"]  # table only
    null_words: Several[str]  # table and movielens: texts that count as null
    label_threshold: float  # table and movielens: clicked = label >= this
    join_s: Seconds  # show and click of one item in one request, at most this far apart, are one row
    shown_s: Seconds  # unclicked rows of one impression_id further apart than this belong to different requests
    negatives: Annotated[int, Field(ge=0, le=1000)]  # unclicked items sampled for each request of clicks alone
    negatives_from: Literal["popularity", "uniform"]  # among the items clicked before: weighted by clicks, or equally
    partition: Literal["day", "month", "year"]

    @model_validator(mode="after")
    def _named_apart(self) -> "SourceParams":
        if self.id in BUILT_IN and self.id != self.name:
            raise ValueError(f"id {self.id!r} is reserved for the source {self.id}; choose another id")
        if self.id == LOCKS:
            raise ValueError(f"id {LOCKS!r} is taken: .state/{LOCKS}/ holds locks; choose another id")
        return self


class SimulatorParams(Section):
    """The simulated logs, cut from a world in steady state."""

    preference: Literal["item", "session"]  # log A, log B
    num_days: Annotated[int, Field(ge=1, le=366)]
    num_users: PositiveInt  # in the whole log
    num_items: PositiveInt  # on offer at any time
    num_themes: Annotated[int, Field(ge=6)]
    num_sessions: PositiveInt  # mean number per user before the user leaves for good
    item_life_days: Annotated[float, Field(ge=1, le=3650)]  # then a new item of its theme replaces it


class LabelParams(Section):
    """When the outcome of a candidate is known."""

    delay_s: Seconds  # a click is known this long after its own time


class SplitParams(Section):
    """The start of each part: a quantile of the request times, or an ISO time."""

    train_from: Share | Moment | None  # null: the log's start; earlier requests only fill counters and histories
    validation: Share | Moment
    test: Share | Moment


class RequestParams(Section):
    """How requests are made from a log that has none: blocks of a user's events."""

    block_size: PositiveInt
    block_s: Duration
    min_user_events: PositiveInt  # users with fewer only extend histories


class ValidateParams(Section):
    """Limits that block a log as a whole; a single bad row goes to quarantine."""

    earliest: Moment
    latest: Moment
    max_silence_s: Duration | None  # few rows that come longer than this after all others are held back; null: none are
    max_id_length: PositiveInt
    max_quarantined_share: Share
    max_duplicated_share: Share
    min_users: PositiveInt
    min_items: PositiveInt
    min_clicks: PositiveInt
    min_unclicked: NonNegativeInt

    @model_validator(mode="after")
    def _in_order(self) -> "ValidateParams":
        if self.earliest >= self.latest:
            raise ValueError(f"earliest ({self.earliest}) must lie before latest ({self.latest})")
        return self


class ExpectationParams(Section):
    """The baseline of a partition, and the limits that features/quality/expectations.yaml names."""

    trailing: PositiveInt  # number of previous partitions to compare with
    limits: dict[str, float | int]  # by name: whatever that file asks for


class HistoryParams(Section):
    """What counts as a user's history."""

    labels: Literal["clicked", "all"]
    lag_s: Seconds  # events younger than this at the request's time are not yet known
    session_gap_s: Duration
    session_max_s: Duration | None  # sessions are also cut at multiples of this since 1970; null: never
    retention_s: Duration | None  # events older than this at the log's end are dropped; null: none
    max_length: PositiveInt  # newest events kept online


class StatisticsParams(Section):
    """Cumulative counters and how late they are known."""

    bucket_s: Seconds  # 0: one row at each time at which something happened
    windows_s: Distinct[Annotated[int, Field(gt=0, le=LONGEST_S)]]  # trailing windows; the total is always there
    shows_lag_s: Seconds
    clicks_lag_s: Seconds
    user_lag_s: Seconds
    context: bool  # also read device, subscription, the item on whose page the request was made, and the hour
    devices: Distinct[str]  # the log's own names of the kinds of device that are told apart
    coclick_rank: Annotated[int, Field(ge=0, le=1024)]  # length of the users' factors of past clicks; 0: none are made
    coclick_period_s: Annotated[float, Field(ge=60, le=LONGEST_S)]  # how often they are recomputed
    in_list: bool  # also compare a candidate with its list; offline only: a served list is not the logged one


def lags_below_delay(sections: Mapping[str, Any]) -> list[str]:
    """Refuse lags by which a feature would read a click before it is known (labels.delay_s).

    A history of shows reveals clicks as well, since its events carry labels. Counts of shows may be known sooner.
    """
    delay_s = sections["labels"].delay_s
    lags_s = {
        "history.lag_s": sections["history"].lag_s,
        "statistics.clicks_lag_s": sections["statistics"].clicks_lag_s,
        "statistics.user_lag_s": sections["statistics"].user_lag_s,
    }
    early = [f"{name} ({lag_s:g})" for name, lag_s in lags_s.items() if lag_s < delay_s]
    if not early:
        return []
    return [
        f"labels.delay_s: a click is known {delay_s:g} s after its time, but {', '.join(early)} would read it earlier; "
        f"raise to at least {delay_s:g}, or lower labels.delay_s"
    ]


def negatives_are_no_history(sections: Mapping[str, Any]) -> list[str]:
    """Refuse settings with which sampled negatives would enter histories as if users had seen them."""
    if not sections["source"].negatives or sections["history"].labels == "clicked":
        return []
    return [
        "source.negatives: sampled items would be events of histories, since history.labels is all; "
        "set history.labels: clicked, or source.negatives: 0"
    ]


class AuditParams(Section):
    """The interest-shift audit."""

    min_session_events: PositiveInt
    num_themes: Annotated[int, Field(ge=2, le=100)]  # groups of categories or items, where the log names more or none
    num_shuffles: PositiveInt  # of the events within each user: the baseline is their mean
    num_draws: Annotated[int, Field(ge=20)]  # of the users behind each 95 % interval
    seed: Seed


class EngineParams(Section):
    """What runs the heavy stages. No stage has it among its params: it changes no byte of what they make."""

    name: Literal["duckdb", "spark"]
    master: str  # of Spark: local[n], spark://host:port, yarn, k8s://...
    options: Mapping[str, str]  # Spark's own settings by name


class MaterializeParams(Section):
    """Reading back from Feast, and what the online store must hold."""

    num_read_back: PositiveInt | None  # of written users and of others, likewise items; null: all
    num_parity_requests: PositiveInt
    replay_share: Annotated[float, Field(gt=0, le=1)]  # of the log's requests, the latest: these are replayed live
    max_lag_s: Duration  # how far a view's newest event may lie behind the log's
    min_user_share: Share  # of the users with events, those that the online store must hold
