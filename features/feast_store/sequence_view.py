"""A Feast view tagged `sequence`, its stored row and live events -> the merged row, in Feast's protobuf."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import numpy as np
from feast import FeatureView
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import FloatList, Int64List, StringList, Value

from contracts.errors import InputError
from features.feast_store.merge import KeyedEvents, NewestEvents, live_events, merge
from features.sealed.event import LiveEvent
from features.terms.sessions import SessionRule, number_sessions

Row = tuple[datetime | None, dict[str, Value] | None]
"""What Feast reads of one entity: (event timestamp, features); (None, None) without a row."""
Written = tuple[EntityKey, dict[str, Value], datetime, datetime | None]
"""What Feast writes of one entity: (key, features, event timestamp, created timestamp)."""

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
ENCODE: dict[str, Callable[[NewestEvents], Value]] = {
    "item_ids": lambda history: Value(string_list_val=StringList(val=history.events.item_ids)),
    "occurred_at": lambda history: Value(int64_list_val=Int64List(val=history.events.occurred_at.tolist())),
    "labels": lambda history: Value(float_list_val=FloatList(val=history.events.labels.tolist())),
    "sessions": lambda history: Value(int64_list_val=Int64List(val=history.sessions.tolist())),
    "event_keys": lambda history: Value(int64_list_val=Int64List(val=history.events.event_keys.tolist())),
    "session_keys": lambda history: Value(int64_list_val=Int64List(val=history.events.session_keys.tolist())),
}
"""All features of a sequence view, by name."""


@dataclass(frozen=True)
class SequenceView:
    """The settings of a sequence view, from its tags."""

    name: str
    rule: SessionRule
    max_length: int

    @classmethod
    def of(cls, view: FeatureView) -> "SequenceView | None":
        """None for a view without the tag. Raises InputError if a setting is missing or not a number."""
        tags = view.tags or {}
        if tags.get("sequence") != "true":
            return None
        try:
            longest = tags["session_max_s"]
            rule = SessionRule.of(float(tags["session_gap_s"]), float(longest) if longest else None)
            return cls(view.name, rule, int(tags["max_length"]))
        except (KeyError, ValueError) as error:
            raise InputError(
                f"The view {view.name} is tagged as a sequence, but a tag of session_gap_s, session_max_s and "
                f"max_length is missing or invalid ({type(error).__name__}: {error}). "
                "`feast apply` the definitions of features/feast_store/repository.py."
            ) from error

    @classmethod
    def required(cls, view: FeatureView) -> "SequenceView":
        """Like `of`, but raises InputError for a view without the tag."""
        sequence = cls.of(view)
        if sequence is None:
            raise InputError(
                f"The view {view.name} is not a sequence: events cannot be appended to it. Append to one whose tag "
                "`sequence` is `true`, as user_history in features/feast_store/repository.py."
            )
        return sequence

    def unite(self, row: Row, live: list[LiveEvent] | None, requested: Sequence[str] | None) -> Row:
        """The stored row with a user's live events merged in; the row itself if there are none.

        live: from LiveTail.histories(); None for a forgotten user, who has no row.
        requested: the features to return; None for all.
        """
        if live is None:
            return None, None
        stored_at, values = row
        if not live:
            return row
        if values and self._extend(values, live):
            at = EPOCH + timedelta(microseconds=live[-1].counts_from)
            return at, values if requested is None else {name: values[name] for name in requested if name in values}
        base = self._decode(values)
        history = merge(base, live_events(live), self.rule, self.max_length)
        names = list(ENCODE) if requested is None else requested
        if history is base or history is None:
            return stored_at, {name: value for name, value in (values or {}).items() if name in names}
        at = EPOCH + timedelta(microseconds=int(history.events.occurred_at[-1]))
        return at, {name: ENCODE[name](history) for name in names if name in ENCODE}

    def _extend(self, values: dict[str, Value], live: list[LiveEvent]) -> bool:
        """Append live events to the stored lists in place: the result of `merge` in a fifth of its time.

        Returns False, changing nothing, unless all live events are new and newer than the stored ones.
        """
        if not ENCODE.keys() <= values.keys():
            return False
        item_ids, labels = values["item_ids"].string_list_val.val, values["labels"].float_list_val.val
        times, keys, of_sessions, sessions = (
            values[name].int64_list_val.val for name in ("occurred_at", "event_keys", "session_keys", "sessions")
        )
        if not times or len({len(each) for each in (item_ids, labels, times, keys, of_sessions, sessions)}) > 1:
            return False
        events = live_events(live)
        if live[0].counts_from <= times[-1] or not frozenset(events.event_keys.tolist()).isdisjoint(list(keys)):
            return False
        cut = max(len(times) + len(live) - self.max_length, 0)
        at = np.concatenate([np.array(list(times), np.int64), events.occurred_at])[cut:]
        named = np.concatenate([np.array(list(of_sessions), np.int64), events.session_keys])[cut:]
        number = number_sessions(self.rule, np.arange(len(at)) == 0, at, named)
        item_ids.extend(events.item_ids)
        times.extend(events.occurred_at.tolist())
        labels.extend(events.labels.tolist())
        keys.extend(events.event_keys.tolist())
        of_sessions.extend(events.session_keys.tolist())
        for each in (item_ids, labels, times, keys, of_sessions):
            del each[:cut]
        sessions[:] = number.tolist()
        return True

    def _decode(self, values: dict[str, Value] | None) -> NewestEvents | None:
        """None if nothing is stored. Raises InputError if a list is missing or their lengths differ."""
        if not values or not any(value.WhichOneof("val") for value in values.values()):
            return None
        item_ids = list(values["item_ids"].string_list_val.val) if "item_ids" in values else []
        events = KeyedEvents(
            item_ids,
            _integers(values, "occurred_at"),
            np.array(list(values["labels"].float_list_val.val) if "labels" in values else [], np.float32),
            _integers(values, "event_keys"),
            _integers(values, "session_keys"),
        )
        sessions = _integers(values, "sessions")
        columns = (events.occurred_at, events.labels, events.event_keys, events.session_keys, sessions)
        lengths = [len(item_ids), *map(len, columns)]
        if len(set(lengths)) > 1:
            raise InputError(
                f"The view {self.name} has a history whose lists have different lengths {lengths}: another version "
                "wrote it. `make load` loads it again."
            )
        return NewestEvents(events, sessions) if item_ids else None


def user_ids(view: SequenceView, keys: Sequence[EntityKey]) -> list[str]:
    """The user ids of entity keys. Raises InputError for keys of anything else."""
    if any(len(key.entity_values) != 1 or not key.entity_values[0].HasField("string_val") for key in keys):
        raise InputError(
            f"The view {view.name} was read by {list(keys[0].join_keys)}, but has one join key, user_id, a string. "
            "Use the entity that features/feast_store/repository.py declares."
        )
    return [key.entity_values[0].string_val for key in keys]


def newest_of(values: dict[str, Value]) -> int:
    """The time of a row's newest event, us; 0 without events."""
    occurred_at = values["occurred_at"].int64_list_val.val if "occurred_at" in values else ()
    return occurred_at[-1] if occurred_at else 0


def _integers(values: dict[str, Value], name: str) -> np.ndarray:
    return np.array(list(values[name].int64_list_val.val) if name in values else [], np.int64)
