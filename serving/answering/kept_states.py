"""A user's newest events and a time -> the model's state of that user, computed anew only if it would be another one.

The state depends on the time through the ages of events, which are in buckets: until the first event moves to its next
bucket, or becomes known, the same events give the same tensors. So a user who asks again within seconds to minutes
costs the candidates alone, and every score is the one that a new state gives.
"""

from collections import OrderedDict
from threading import Lock
from typing import Any, NamedTuple

import numpy as np

from features.encoding.encode import AGE_UNIT_US, NUM_AGE_BUCKETS, age_bucket, micros
from features.online.kept import MAX_USERS
from serving.bundle.scorer import Events, Scorer

FOREVER = np.iinfo(np.int64).max


class _Kept(NamedTuple):
    scorer: Scorer
    events: Events  # the newest that were known
    since: int  # us, the first time and
    until: int  # the time from which they may give another state
    state: Any


class KeptStates:
    """The states of the users who asked last. Thread-safe."""

    def __init__(self, max_users: int = MAX_USERS) -> None:
        self._max_users = max_users
        self._kept: OrderedDict[str, _Kept] = OrderedDict()
        self._lock = Lock()

    def state(self, scorer: Scorer, user_id: str, events: Events, at: int, codes: Any) -> Any:
        """As scorer.user_side(events, at, codes).

        events: all that the store holds. Models that read item codes, which change with every click of anyone, and
        users without events have no state that is worth keeping.
        """
        known = scorer.known_events(events, at)
        if scorer.reads_codes or not known:
            with self._lock:
                self._kept.pop(user_id, None)  # of one who was forgotten nothing stays
            return scorer.user_side(events, at, codes)
        newest = events.between(max(0, known - scorer.spec.history_length), known)
        with self._lock:
            kept = self._kept.get(user_id)
        if kept is None or not (kept.scorer is scorer and kept.since <= at < kept.until and _same(kept.events, newest)):
            kept = _Kept(scorer, newest, at, _until(scorer, events, newest, at), scorer.user_side(events, at, codes))
        with self._lock:
            self._kept[user_id] = kept
            self._kept.move_to_end(user_id)
            while len(self._kept) > self._max_users:
                self._kept.popitem(last=False)
        return kept.state


def _same(one: Events, other: Events) -> bool:
    return (
        len(one.item_ids) == len(other.item_ids)
        and all(np.array_equal(a, b) for a, b in zip(one[1:4], other[1:4], strict=True))
        and one.item_ids == other.item_ids
    )


def _until(scorer: Scorer, events: Events, newest: Events, at: int) -> int:
    """us: when the age of one of the newest events is in another bucket, or a later event becomes known."""
    bucket = age_bucket(at - newest.occurred_at).astype(np.int64)
    ends = newest.occurred_at + ((1 << (bucket + 1)) - 1) * AGE_UNIT_US  # bucket b has ages of less than 2^(b+1) - 1
    ends[bucket == NUM_AGE_BUCKETS - 1] = FOREVER  # the last one has no end
    later = events.occurred_at[scorer.known_events(events, at) :]
    becomes_known = int(later[0]) + micros(scorer.spec.history_lag_s) + 1 if len(later) else FOREVER
    return min(int(ends.min()), becomes_known)
