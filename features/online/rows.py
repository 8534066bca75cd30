"""Feast's rows of users and items -> arrays and texts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from sys import intern
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
    """What the store has of a user, from one read."""

    history: UserHistory | None  # None if the store does not know the user
    counted: bytes  # the user's counts in the log, packed by encoding/user_counts.py; empty without a row


class ItemProfile(NamedTuple):
    """An item's row of the catalogue."""

    title: str | None
    categories: list[str]
    published_at: int | None  # microseconds
    embedding: list[float] | None


def to_history(values: Mapping[str, Value] | None) -> UserHistory | None:
    """A user's history; None without a row."""
    if not values or not all(name in values for name in HISTORY) or not values["item_ids"].HasField("string_list_val"):
        return None
    return UserHistory(
        item_ids=list(map(intern, values["item_ids"].string_list_val.val)),  # of many users that are kept: each id once
        occurred_at=np.array(values["occurred_at"].int64_list_val.val, np.int64),
        label=np.array(values["labels"].float_list_val.val, np.float32),
        session=np.array(values["sessions"].int64_list_val.val, np.int64),
    )


def to_counted(values: Mapping[str, Value] | None) -> bytes:
    """A user's packed counts; empty without a row."""
    return values["counts"].bytes_val if values and "counts" in values else b""


def to_profiles(columns: Sequence[Sequence[Value]]) -> list[ItemProfile | None]:
    """Catalogue rows. columns: those of PROFILE, one value per item. None where Feast does not know the item."""
    return [
        None
        if not categories.HasField("string_list_val")
        else ItemProfile(
            title.string_val if title.HasField("string_val") else None,
            list(categories.string_list_val.val),
            published_at.int64_val if published_at.HasField("int64_val") else None,
            list(embedding.float_list_val.val) or None,  # Feast stores a missing list as an empty one
        )
        for title, categories, published_at, embedding in zip(*columns, strict=True)
    ]
