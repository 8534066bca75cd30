"""EB-NeRD bundles small enough to read, in the layout and the types as published."""

from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from features.stages.ingest import run
from tests.features.raw_logs import SMALL, read, source

START = datetime(2023, 5, 18, 7)
WEEK = 7 * 86400
IDS = pa.large_list(pa.int32())

Row = dict[str, Any]


def at(seconds: float) -> datetime:
    """A time without zone, so many seconds after the train week's start."""
    return START + timedelta(seconds=seconds)


def impression(name: int | None, user: int | None, seconds: float, shown: Any, clicked: Any, session: int = 1) -> Row:
    """One row of behaviors.parquet, with all that must not be read."""
    return {
        "impression_id": name,
        "impression_time": at(seconds),
        "user_id": user,
        "session_id": session,
        "article_ids_inview": shown,
        "article_ids_clicked": clicked,
        "article_id": 10 if seconds else None,
        "device_type": 2,
        "is_subscriber": bool(seconds),
        "read_time": 9.0,
        "next_read_time": 9.0,
    }


def clicks(user: int | None, *events: tuple[int | None, float]) -> Row:
    """One row of history.parquet: a user and (article, seconds) pairs."""
    return {
        "user_id": user,
        "article_id_fixed": [article for article, _ in events],
        "impression_time_fixed": [at(seconds) for _, seconds in events],
        "read_time_fixed": [9.0 for _ in events],
    }


BEHAVIORS = pa.schema(
    {
        "impression_id": pa.uint32(),
        "impression_time": pa.timestamp("us"),
        "user_id": pa.uint32(),
        "session_id": pa.uint32(),
        "article_ids_inview": IDS,
        "article_ids_clicked": IDS,
        "article_id": pa.int32(),
        "device_type": pa.int8(),
        "is_subscriber": pa.bool_(),
        "read_time": pa.float32(),
        "next_read_time": pa.float32(),
    }
)
HISTORY = pa.schema(
    {
        "user_id": pa.uint32(),
        "article_id_fixed": IDS,
        "impression_time_fixed": pa.large_list(pa.timestamp("us")),
        "read_time_fixed": pa.large_list(pa.float32()),
    }
)
ORDINARY = impression(1, 7, 0, [10, 11], [11]), impression(2, 8, WEEK, [10, 12], [10])


def write_bundle(
    folder: Path,
    train: tuple[Row, ...] = ORDINARY[:1],
    validation: tuple[Row, ...] = ORDINARY[1:],
    train_history: tuple[Row, ...] = (),
    validation_history: tuple[Row, ...] = (),
) -> Path:
    """The four files of a bundle."""
    parts = {"train": (train, train_history), "validation": (validation, validation_history)}
    for part, (behaviors, history) in parts.items():
        (folder / part).mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.Table.from_pylist(list(behaviors), BEHAVIORS), folder / part / "behaviors.parquet")
        pq.write_table(pa.Table.from_pylist(list(history), HISTORY), folder / part / "history.parquet")
    return folder


def ingest(data: Path, folder: Path) -> dict[str, Any]:
    """Ingest a bundle; every row read is written or left out."""
    report = dict(run(data, 1, SMALL, source("ebnerd", folder)))
    assert report["rows_read"] == report["rows_written"] + sum(report["dropped"].values())
    assert (len(read(data / "provenance")), len(read(data / "rejected"))) == (
        report["rows_written"],
        sum(report["dropped"].values()) + sum(report["items_dropped"].values()),
    )
    return report


def found(data: Path) -> set[tuple[str | None, str | None, float, float, str]]:
    """(user, item, seconds, label, role) of every interaction."""
    return {
        (row["user_id"], row["item_id"], (row["occurred_at"].replace(tzinfo=None) - START).total_seconds(),
         row["label"], row["role"])
        for row in read(data / "interactions")
    }  # fmt: skip
