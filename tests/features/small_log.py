"""A validated log small enough to count by hand, written as ingest and validate leave it, and the params to read it."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from contracts.publish import write_json
from contracts.schema import CONTEXTS, INTERACTIONS, ITEMS, QUARANTINE, REJECTED
from features.stages import histories
from features.stages.statistics import run as run_statistics
from features.tables.histories import UserHistories
from features.terms.params import (
    HistoryParams,
    LabelParams,
    MaterializeParams,
    RequestParams,
    StatisticsParams,
    ValidateParams,
)

START = datetime(2024, 1, 1, tzinfo=UTC)
START_US = int(START.timestamp()) * 1_000_000

Row = dict[str, Any]


def history(**changes: Any) -> HistoryParams:
    values = {"labels": "clicked", "lag_s": 0, "session_gap_s": 1800, "max_length": 50}
    values |= {"session_max_s": None, "retention_s": None}
    return HistoryParams(**values | changes)


def request(**changes: Any) -> RequestParams:
    return RequestParams(**{"block_size": 8, "block_s": 600, "min_user_events": 1} | changes)


def statistics(**changes: Any) -> StatisticsParams:
    lags = {"shows_lag_s": 10, "clicks_lag_s": 30, "user_lag_s": 10}
    without = {"context": False, "devices": (), "coclick_rank": 0, "coclick_period_s": 600, "in_list": False}
    return StatisticsParams(**{"bucket_s": 0, "windows_s": (60, 3600)} | without | lags | changes)


def materialize(**changes: Any) -> MaterializeParams:
    values = {"num_parity_requests": 30, "replay_share": 0.3, "max_lag_s": 86_400, "min_user_share": 1.0}
    values |= {"num_read_back": None}
    return MaterializeParams(**values | changes)


def validate(**changes: Any) -> ValidateParams:
    shares = {"max_quarantined_share": 1, "max_duplicated_share": 1}
    least = {"min_users": 1, "min_items": 1, "min_clicks": 1, "min_unclicked": 0}
    times = {"earliest": datetime(1990, 1, 1, tzinfo=UTC), "latest": datetime(2100, 1, 1, tzinfo=UTC)}
    return ValidateParams(**times | shares | least | {"max_id_length": 64, "max_silence_s": None} | changes)


def labels(delay_s: float = 0) -> LabelParams:
    return LabelParams(delay_s=delay_s)


def settings(**history_changes: Any) -> dict[str, Any]:
    """What the stage materialize writes into a snapshot of how it was made."""
    sections = {"statistics": statistics(), "validate": validate()}
    told = {name: section.model_dump(mode="json") for name, section in sections.items()}
    return history(**history_changes).model_dump(mode="json") | told | {"label_delay_s": 0.0}


def row(user: str, item: str, at_s: float, label: float = 1, **more: Any) -> Row:
    """One interaction, at_s seconds after START."""
    given = {"user_id": user, "item_id": item, "occurred_at": START + timedelta(seconds=at_s), "label": label}
    empty = {"impression_id": None, "position": None, "session_id": None, "role": "impression", "event_id": None}
    empty |= {"known_at": None, "arrived_at": None}
    return empty | given | more


def random_log(seed: int, num_users: int = 5, num_requests: int = 60, num_items: int = 12) -> list[Row]:
    """Impressions of 3 items at whole seconds, so that times are often equal; plus rows that only extend histories."""
    random = np.random.default_rng(seed)
    rows = []
    for number in range(num_requests):
        user, at = f"u{random.integers(num_users)}", int(random.integers(0, 4000))
        for position, item in enumerate(random.permutation(num_items)[:3]):
            clicked = float(random.random() < 0.4)
            rows.append(row(user, f"i{item:02}", at, clicked, impression_id=f"r{number}", position=position))
    rows += [row(f"u{number % num_users}", "i00", number * 7, role="history") for number in range(10)]
    return rows


def contexts_of(rows: Sequence[Row]) -> list[Row]:
    """What each named request says of itself: in turn nothing, all there is, and a page that the log does not have."""
    named = sorted({each["impression_id"] for each in rows} - {None})
    items = sorted({each["item_id"] for each in rows})
    return [
        {"impression_id": name}
        | {
            0: {},
            1: {"device": "phone", "is_subscriber": True, "reading_item_id": items[number % len(items)]},
            2: {"device": "car", "is_subscriber": False, "reading_item_id": "gone"},
        }[number % 3]
        for number, name in enumerate(named)
    ]


def write_log(
    data: Path, rows: Sequence[Row], categories: dict[str, list[str]] | None = None, by_day: bool = False
) -> Path:
    """Write what histories and statistics read, in the order given; every item_id gets a category of its own.

    by_day: validated_interactions as a file a day, not one of the month.
    """
    named = [{**each, "event_id": each["event_id"] or f"e{number:05}"} for number, each in enumerate(rows)]
    items = sorted({each["item_id"] for each in rows})
    listed = [
        {"item_id": item, "title": f"title of {item}", "categories": (categories or {}).get(item, [f"c{item}"])}
        | ({} if number % 2 else {"published_at": START, "embedding": [0.5, -number]})
        for number, item in enumerate(items)
    ]
    tables = {
        "interactions": pa.Table.from_pylist(named, INTERACTIONS),
        "validated_interactions": pa.Table.from_pylist(named, INTERACTIONS),
        "items": pa.Table.from_pylist(listed, ITEMS),
        "contexts": pa.Table.from_pylist(contexts_of(rows), CONTEXTS),
        "quarantine": QUARANTINE.empty_table(),
        "rejected": REJECTED.empty_table(),
    }
    for name, table in tables.items():
        (data / name).mkdir(parents=True, exist_ok=True)
        pq.write_table(table, data / name / "2024-01.parquet")
    if by_day:
        whole = data / "validated_interactions" / "2024-01.parquet"
        table = pq.read_table(whole)
        whole.unlink()
        days = pc.strftime(table["occurred_at"], "%Y-%m-%d")
        for day in days.unique().to_pylist():
            pq.write_table(table.filter(pc.equal(days, day)), whole.with_name(f"{day}.parquet"))
    write_json(data / "absorbed" / "absorbed.json", {})
    return data


def build(
    data: Path, rows: Sequence[Row], counted: StatisticsParams | None = None, **history_changes: Any
) -> UserHistories:
    """Run histories and statistics over a log. counted: how it is counted, where not as statistics() says."""
    write_log(data, rows)
    histories.run(data, request(), history(**history_changes))
    run_statistics(data, counted or statistics())
    return UserHistories.open(data / "user_histories")
