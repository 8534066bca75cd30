"""Rows that Feast writes -> the newest of each Redis key, and its fields; the order of rows by their timestamps."""

from collections.abc import Sequence
from typing import Any

from feast import RepoConfig
from feast.infra.online_stores.helpers import _mmh3, _redis_key
from feast.utils import make_tzaware
from google.protobuf.timestamp_pb2 import Timestamp

from features.feast_store.sequence_view import Written


def newest_of_each(config: RepoConfig, rows: Sequence[Written]) -> dict[bytes, Written]:
    """Redis key -> its newest row; the later one of equal timestamps."""
    version = config.entity_key_serialization_version
    newest: dict[bytes, Written] = {}
    for row in rows:
        key = _redis_key(config.project, row[0], entity_key_serialization_version=version)
        if key not in newest or order(row[2]) >= order(newest[key][2]):
            newest[key] = row
    return newest


def fields_of_row(name: str, row: Written) -> list[Any]:
    """Fields of a row and their values, in turns, as Feast stores them. name: the view's, versioned by Feast."""
    fields: list[Any] = [f"_ts:{name}", timestamp(row[2]).SerializeToString()]
    for feature, value in row[1].items():
        fields += [_mmh3(f"{name}:{feature}"), value.SerializeToString()]
    return fields


def timestamp(at: Any) -> Timestamp:
    """A row's time as protobuf."""
    made = Timestamp()
    made.FromDatetime(make_tzaware(at))
    return made


def order(at: Any) -> tuple[int, int]:
    """The sort key of a row's time."""
    made = timestamp(at)
    return made.seconds, made.nanos


def order_of(stored: bytes | None) -> tuple[int, int]:
    """The sort key of a stored timestamp; the smallest if there is none."""
    made = Timestamp.FromString(stored) if stored else None
    return (made.seconds, made.nanos) if made else (-(2**63), 0)
