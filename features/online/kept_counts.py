"""A user's row of counts -> counters, decoded anew only if the row is another one.

A row changes with a load only, so a user who asks again costs no decoding. Exact: the bytes are compared.
"""

from collections import OrderedDict
from threading import Lock
from typing import NamedTuple

from contracts.errors import InputError
from features.encoding.as_of import AsOfCounter
from features.encoding.user_counts import UserCounts
from features.online.live_counters import Ids

MAX_USERS = 256
"""Number of users whose counters are kept, some 60 kB each with 1,000 shows."""

Own = tuple[AsOfCounter, AsOfCounter]
"""user_counters and user_item_counters of one user."""


class _Kept(NamedTuple):
    row: bytes
    user_key: int
    num_items: int  # that had a key when the row was decoded; an item of the row may have got one since
    own: Own


class KeptCounts:
    """The counters of the users who asked last. Thread-safe."""

    def __init__(self, max_users: int = MAX_USERS) -> None:
        self._max_users = max_users
        self._kept: OrderedDict[str, _Kept] = OrderedDict()
        self._lock = Lock()

    def decoded(self, user_id: str, row: bytes, user_key: int, items: Ids) -> Own:
        """The log's counts of a user. Raises InputError if the row is damaged."""
        num_items = len(items.added)
        with self._lock:
            kept = self._kept.get(user_id)
        if kept is None or kept[:3] != (row, user_key, num_items):
            try:
                counts = UserCounts.decode(row)
            except ValueError as error:
                raise InputError(
                    f"A user's row in the online store is damaged: {error}. `make load` loads it again; then restart "
                    "the service."
                ) from error
            kept = _Kept(row, user_key, num_items, counts.counters(user_key, items.keys(counts.item_ids)))
        with self._lock:
            self._kept[user_id] = kept
            self._kept.move_to_end(user_id)
            while len(self._kept) > self._max_users:
                self._kept.popitem(last=False)
        return kept.own

    def drop(self, user_id: str) -> None:
        """Forget what is kept of a user."""
        with self._lock:
            self._kept.pop(user_id, None)
