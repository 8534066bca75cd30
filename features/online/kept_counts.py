"""A user's row of counts -> counters, decoded anew only if the row is another one.

A row changes with a load only, so a user who asks again costs no decoding. Exact: the bytes are compared.
"""

from contracts.errors import InputError
from features.encoding.as_of import AsOfCounter
from features.encoding.user_counts import UserCounts
from features.online.kept import MAX_USERS, Kept
from features.online.live_counters import Ids

Own = tuple[AsOfCounter, AsOfCounter]
"""user_counters and user_item_counters of one user."""


class KeptCounts:
    """The counters of the users who asked last. Thread-safe."""

    def __init__(self, max_users: int = MAX_USERS) -> None:
        self._kept: Kept[Own] = Kept(max_users)

    def decoded(self, user_id: str, row: bytes, user_key: int, items: Ids) -> Own:
        """The log's counts of a user. Raises InputError if the row is damaged."""

        def decode() -> Own:
            try:
                counts = UserCounts.decode(row)
            except ValueError as error:
                raise InputError(
                    f"A user's row in the online store is damaged: {error}. `make load` loads it again; then restart "
                    "the service."
                ) from error
            return counts.counters(user_key, items.keys(counts.item_ids))

        # an item of the row may get a key after the row was decoded
        return self._kept.made(user_id, (row, user_key, len(items.added)), decode)

    def drop(self, user_id: str) -> None:
        """Forget what is kept of a user."""
        self._kept.drop(user_id)
