"""Feast's rows of a user and of an item -> arrays and texts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from feast.protos.feast.types.Value_pb2 import Value

Int64 = npt.NDArray[np.int64]

HISTORY = ("item_ids", "occurred_at", "labels", "sessions")
STATE = ("counts",)
PROFILE = tuple(f"item_profile:{name}" for name in ("title", "categories", "published_at", "embedding"))


@dataclass(frozen=True)
class UserHistory:
    """A user's stored events, oldest first."""

    item_ids: list[str]
    occurred_at: Int64  # microseconds
    label: npt.NDArray[np.float32]
    session: Int64  # per user, from 0


class UserRead(NamedTuple):
    """What one read finds of a user."""

    history: UserHistory | None  # None where the store does not know the user
    counted: bytes  # of the log, as encoding/user_counts.py packs it; empty where nothing is


class ItemProfile(NamedTuple):
    """What the catalogue says of an item."""

    title: str | None
    categories: list[str]
    published_at: int | None  # microseconds
    embedding: list[float] | None


def to_history(values: Mapping[str, Value] | None) -> UserHistory | None:
    """None where there is no row."""
    if not values or not all(name in values for name in HISTORY) or not values["item_ids"].HasField("string_list_val"):
        return None
    return UserHistory(
        item_ids=list(values["item_ids"].string_list_val.val),
        occurred_at=np.array(values["occurred_at"].int64_list_val.val, np.int64),
        label=np.array(values["labels"].float_list_val.val, np.float32),
        session=np.array(values["sessions"].int64_list_val.val, np.int64),
    )


def to_counted(values: Mapping[str, Value] | None) -> bytes:
    """Empty where there is no row."""
    return values["counts"].bytes_val if values and "counts" in values else b""


def to_profiles(columns: Sequence[Sequence[Value]]) -> list[ItemProfile | None]:
    """columns: those of PROFILE, one value an item. None where Feast does not know the item."""
    return [
        None
        if not categories.HasField("string_list_val")
        else ItemProfile(
            title.string_val if title.HasField("string_val") else None,
            list(categories.string_list_val.val),
            published_at.int64_val if published_at.HasField("int64_val") else None,
            list(embedding.float_list_val.val) or None,  # Feast keeps an absent list as an empty one
        )
        for title, categories, published_at, embedding in zip(*columns, strict=True)
    ]
