"""A user's row of counts is decoded again only where its bytes, the user's key or the known items are others."""

import numpy as np
import pytest

from contracts.errors import InputError
from features.encoding.counters import PAIR_RADIX
from features.encoding.user_counts import UNNAMED, UserCounts
from features.online.kept_counts import KeptCounts
from features.online.live_counters import Ids

ONE = np.ones(1, np.int64)


def row(item_id: str, clicks: int = 1) -> bytes:
    """One item shown to a user once, at 5 us."""
    return UserCounts(5 * ONE, ONE, clicks * ONE, [item_id], 0 * ONE, 0 * ONE, ONE, clicks * ONE).encode()


def test_the_same_row_is_decoded_once_and_another_one_anew() -> None:
    kept, items = KeptCounts(), Ids({"a": 0})
    first = kept.decoded("u", row("a"), UNNAMED, items)
    assert kept.decoded("u", row("a"), UNNAMED, items) is first
    own, pairs = kept.decoded("u", row("a", clicks=0), UNNAMED, items)
    assert own.read([UNNAMED], 6)[1].tolist() == [0]
    assert pairs.read([UNNAMED * PAIR_RADIX], 6)[0].tolist() == [1]
    own, _ = kept.decoded("u", row("a", clicks=0), 7, items)  # a live event has named the user
    assert own.read([7, UNNAMED], 6)[0].tolist() == [1, 0]


def test_an_item_that_a_live_event_names_later_is_found_in_a_row_that_was_decoded_before() -> None:
    kept, items = KeptCounts(), Ids({"a": 0})
    _, pairs = kept.decoded("u", row("new"), UNNAMED, items)
    assert pairs.read([UNNAMED * PAIR_RADIX + 1], 6)[0].tolist() == [0]
    (key,) = items.learn(["new"]).tolist()
    _, pairs = kept.decoded("u", row("new"), UNNAMED, items)
    assert pairs.read([UNNAMED * PAIR_RADIX + key], 6)[0].tolist() == [1]


def test_few_users_are_kept_and_none_who_is_dropped() -> None:
    kept, items = KeptCounts(max_users=2), Ids({"a": 0})
    first = {user: kept.decoded(user, row("a"), UNNAMED, items) for user in "uvw"}
    assert kept.decoded("w", row("a"), UNNAMED, items) is first["w"]
    kept.drop("w")
    for user in "uw":
        assert kept.decoded(user, row("a"), UNNAMED, items) is not first[user]


def test_a_damaged_row_is_refused_and_not_kept() -> None:
    kept = KeptCounts()
    with pytest.raises(InputError, match="damaged"):
        kept.decoded("u", b"\x09" * 30, UNNAMED, Ids({}))
    assert kept.decoded("u", row("a"), UNNAMED, Ids({"a": 0}))
