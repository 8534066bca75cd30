"""The inputs of scalar features besides the candidates: user, time, recent clicks, context of requests. numpy only."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from contracts.schema import FIRST_INDEX, PADDING_INDEX, UNKNOWN_INDEX
from features.encoding.encode import EncodedHistory
from features.terms.convention import CLICKED, RECENT, is_click

Int64 = npt.NDArray[np.int64]

NO_KEY = PADDING_INDEX - FIRST_INDEX
"""The key where there is no item."""
UNKNOWN_KEY = UNKNOWN_INDEX - FIRST_INDEX
"""An item that the log never had."""


class Context(NamedTuple):
    """The context of one request; None where it is not given."""

    device: str | None = None
    is_subscriber: bool | None = None
    reading_item_id: str | None = None  # the item on whose page the request was made


NO_CONTEXT = Context()


@dataclass(frozen=True)
class Asked:
    """R requests. Keys are those of counters.py: an item's or a user's position, negative where unknown."""

    user_keys: Int64  # [R]
    at: Int64  # [R] us
    recent: Int64  # [R, RECENT] the items clicked among the newest events, the newest last; NO_KEY elsewhere
    reading: Int64  # [R] the item on whose page the request was made; NO_KEY where there is none
    is_subscriber: npt.NDArray[np.bool_]  # [R]
    device: npt.NDArray[np.str_]  # [R]; "" where unknown

    def __len__(self) -> int:
        return len(self.at)

    @classmethod
    def of_one(cls, user_key: int, at: int, recent: Int64, reading_key: int, context: Context) -> "Asked":
        """R = 1. recent: [RECENT]. reading_key: of context.reading_item_id, negative where unknown."""
        reading = NO_KEY if context.reading_item_id is None else reading_key if reading_key >= 0 else UNKNOWN_KEY
        return cls(
            user_keys=np.array([user_key], np.int64),
            at=np.array([at], np.int64),
            recent=recent[None, :],
            reading=np.array([reading], np.int64),
            is_subscriber=np.array([bool(context.is_subscriber)]),
            device=np.array([context.device or ""]),
        )


def recent_clicks(item_keys: npt.ArrayLike, labels: npt.ArrayLike) -> Int64:
    """[RECENT] item keys of one user's newest known events that were clicked. Input and output are oldest first."""
    keys, clicked = np.asarray(item_keys, np.int64)[-RECENT:], np.asarray(labels)[-RECENT:] >= CLICKED
    recent = np.full(RECENT, NO_KEY, np.int64)
    recent[RECENT - len(keys) :] = np.where(clicked, keys, NO_KEY)
    return recent


def recent_of_histories(encoded: EncodedHistory) -> Int64:
    """[U, RECENT] of histories encoded with at least RECENT slots, by the item_index of the vocabulary."""
    newest = encoded.item_index[:, -RECENT:].astype(np.int64) - FIRST_INDEX
    return np.where(is_click(encoded.label[:, -RECENT:]), newest, NO_KEY)
