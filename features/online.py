""".state/<source>/feast -> a user's history and the counters, in process, for the service. No ibis, no duckdb."""

import json
import sqlite3
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from feast import FeatureStore, RepoConfig
from feast.errors import FeastError
from feast.protos.feast.types.Value_pb2 import Value
from google.protobuf.message import DecodeError

from contracts.errors import InputError
from features.counters import Counters
from features.state import read_stamp

Int64 = npt.NDArray[np.int64]

PROJECT = "leitmotif"
HISTORY = tuple(f"user_history:{name}" for name in ("item_ids", "occurred_at", "labels", "sessions"))
DAMAGE = (
    sqlite3.Error,
    OSError,
    EOFError,
    ValueError,
    KeyError,
    TypeError,
    zipfile.BadZipFile,
    DecodeError,
    FeastError,
)
"""What the readers of a state's files raise where a file is missing, cut short or something else."""
PROFILE = tuple(f"item_profile:{name}" for name in ("title", "categories", "published_at", "embedding"))


@dataclass(frozen=True)
class UserHistory:
    """A user's stored events, oldest first."""

    item_ids: list[str]
    occurred_at: Int64  # microseconds
    label: npt.NDArray[np.float32]
    session: Int64  # per user, from 0


class ItemProfile(NamedTuple):
    """What the catalogue says of an item."""

    title: str | None
    categories: list[str]
    published_at: int | None  # microseconds
    embedding: list[float] | None


@dataclass(frozen=True)
class OnlineStore:
    """What the service reads. Made by features.load; a newer load never changes an opened one."""

    feast: FeatureStore
    snapshot_id: str
    log_end: int  # 1 us after the newest event, in microseconds: a request then sees all of the log
    counters: Counters
    item_positions: Mapping[str, int]
    user_positions: Mapping[str, int]

    @classmethod
    def open(cls, state: Path) -> "OnlineStore":
        """Raises InputError where nothing has been loaded there, or what was loaded is damaged."""
        state = state.resolve()  # the link moves with the next load; this store stays with what it opened
        try:
            stamp = read_stamp(state)
            if stamp is not None:
                return cls._read_state(state, stamp)
        except DAMAGE as error:
            raise InputError(
                f"The online store in {state} cannot be read: {type(error).__name__}: {error}. "
                "`make load` loads it again."
            ) from error
        raise InputError(f"{state} holds no loaded snapshot. `make load` loads Feast from the feature snapshot.")

    @classmethod
    def _read_state(cls, state: Path, stamp: Mapping[str, Any]) -> "OnlineStore":
        ids = json.loads((state / "ids.json").read_text(encoding="utf-8"))
        store = cls(
            feast=FeatureStore(config=config(state, offline="file")),
            snapshot_id=stamp["snapshot_id"],
            log_end=stamp["log_end_us"],
            counters=Counters.load(state),
            item_positions={item_id: position for position, item_id in enumerate(ids["items"])},
            user_positions={user_id: position for position, user_id in enumerate(ids["users"])},
        )
        store.history("")  # Feast opens its database at the first read: before a newer load removes the folder
        return store

    def history(self, user_id: str) -> UserHistory | None:
        """All stored events of a user; None where Feast does not know the user."""
        return self.histories([user_id])[0]

    def histories(self, user_ids: Sequence[str]) -> list[UserHistory | None]:
        """The same for several users in one read."""
        columns = self._read(HISTORY, "user_id", user_ids)
        return [
            None
            if not item_ids.HasField("string_list_val")
            else UserHistory(
                item_ids=list(item_ids.string_list_val.val),
                occurred_at=np.array(occurred_at.int64_list_val.val, np.int64),
                label=np.array(labels.float_list_val.val, np.float32),
                session=np.array(sessions.int64_list_val.val, np.int64),
            )
            for item_ids, occurred_at, labels, sessions in zip(*columns, strict=True)
        ]

    def profiles(self, item_ids: Sequence[str]) -> list[ItemProfile | None]:
        """What the catalogue says of items; None where Feast does not know the item."""
        return [
            None
            if not categories.HasField("string_list_val")
            else ItemProfile(
                title.string_val if title.HasField("string_val") else None,
                list(categories.string_list_val.val),
                published_at.int64_val if published_at.HasField("int64_val") else None,
                list(embedding.float_list_val.val) or None,  # Feast keeps an absent list as an empty one
            )
            for title, categories, published_at, embedding in zip(
                *self._read(PROFILE, "item_id", item_ids), strict=True
            )
        ]

    def item_keys(self, item_ids: Sequence[str]) -> Int64:
        """The counters' keys of items; -1 where the log never had them."""
        return np.array([self.item_positions.get(item_id, -1) for item_id in item_ids], np.int64)

    def item_key(self, item_id: str | None) -> int:
        """The key of one item; -1 where the log never had it, or where there is none."""
        return -1 if item_id is None else self.item_positions.get(item_id, -1)

    def user_key(self, user_id: str) -> int:
        """The counters' key of a user; -1 where the log never had them."""
        return self.user_positions.get(user_id, -1)

    def _read(self, features: Sequence[str], key: str, ids: Sequence[str]) -> list[list[Value]]:
        """One list a feature, one value an id: Feast's own protobuf values, which are cheaper than its dicts."""
        response = self.feast.get_online_features(
            features=list(features), entity_rows=[{key: value} for value in ids]
        ).proto
        names = list(response.metadata.feature_names.val)
        wanted = [feature.split(":")[1] for feature in features]
        return [list(response.results[names.index(name)].values) for name in wanted]


def config(state: Path, offline: str) -> RepoConfig:
    """Feast's configuration over a state folder. offline: `file` to serve; any other imports ibis."""
    state = state.resolve()
    return RepoConfig(
        project=PROJECT,
        provider="local",
        registry={"path": str(state / "registry.db"), "cache_ttl_seconds": 0},  # 0: a loaded state never changes
        online_store={"type": "sqlite", "path": str(state / "online.db")},
        offline_store={"type": offline},
        entity_key_serialization_version=3,
    )
