"""What was made of a user's rows is made anew only where the rows are others, and nothing is kept of who is gone."""

import sys
from pathlib import Path

import numpy as np
import pytest

from contracts.errors import InputError
from features.feast_store.merge import packed
from features.live.places import state_of
from features.online.kept import Kept
from features.online.store import OnlineStore
from features.terms.convention import micros
from tests.features.live_tails import START_US, event
from tests.features.online.test_online import loaded
from tests.features.small_log import row

pytestmark = pytest.mark.xdist_group("feast")

ROWS = [row("v", "i0", 0), *(row("u", f"i{number}", number) for number in range(5))]


def test_it_is_made_once_of_the_same_thing_and_anew_of_another() -> None:
    kept: Kept[object] = Kept(max_users=2)
    first = kept.made("u", (b"row", [1]), object)
    assert kept.made("u", (b"row", [1]), object) is first
    second = kept.made("u", (b"row", [1, 2]), object)
    assert second is not first
    others = [kept.made(user, b"", object) for user in "vw"]  # take the place of the first
    assert kept.made("w", b"", object) is others[1]
    kept.drop("w")
    assert kept.made("w", b"", object) is not others[1]
    assert kept.made("u", (b"row", [1, 2]), object) is not second


def test_nothing_is_kept_of_what_could_not_be_made() -> None:
    kept: Kept[int] = Kept()
    with pytest.raises(ZeroDivisionError):
        kept.made("u", b"", lambda: 1 // 0)
    assert kept.made("u", b"", lambda: 7) == 7


def test_users_of_whom_there_is_nothing_take_nobody_s_place() -> None:
    kept: Kept[object] = Kept(max_users=2)
    first = {user: kept.made(user, b"", object) for user in "uv"}
    for number in range(5):
        assert kept.made(f"unknown {number}", b"", lambda: None) is None
    assert {user: kept.made(user, b"", object) for user in "uv"} == first
    assert kept.made("u", b"gone", lambda: None) is None
    assert kept.made("u", b"", object) is not first["u"]


def test_a_history_is_parsed_again_with_the_next_event_and_not_before(tmp_path: Path) -> None:
    data = tmp_path / "data" / "table"
    store = loaded(data, ROWS)
    first = store.read("u").history
    assert first is not None
    at = int(first.occurred_at[-1]) - START_US + micros(60)
    assert store.read("u").history is first
    store.append([event("shown", "u", "i9", at, label=0.0, in_history=False), event("other", "v", "i9", at)])
    assert store.read("u").history is first, "neither what is no event of the history nor others' events change it"
    for number in range(2):
        store.append([event(f"clicked {number}", "u", "i9", at + number, label=1.0, in_history=True)])
        second = store.read("u").history
        assert second is not None
        assert second.item_ids == [*first.item_ids, *["i9"] * (number + 1)]
        assert store.read("u").history is second
    anew = OnlineStore.open(state_of(data)).read("u").history
    assert anew is not None
    for one, other in ((second.occurred_at, anew.occurred_at), (second.session, anew.session)):
        assert np.array_equal(one, other)
    assert first.item_ids == [f"i{number}" for number in range(5)], "what others hold is not changed"
    store.tail.close()


def test_live_events_are_kept_in_little_memory_and_told_apart_by_all_that_is_read_of_them() -> None:
    events = [
        event(f"{number:08}-0123456789abcdef", "u", f"i{number:06}", number * micros(1), impression_id=f"r{number:020}")
        for number in range(1000)
    ]
    kept = packed(events)
    assert kept is not None
    whole = sum(sys.getsizeof(each) + sum(map(sys.getsizeof, each)) for each in events)
    assert len(kept) * 8 < whole
    assert packed([each._replace(item_id="".join(each.item_id)) for each in events]) == kept
    for changed in (
        {"event_id": "another"},
        {"item_id": "another"},
        {"occurred_at": 7},
        {"known_at": events[-1].occurred_at + 1},
        {"label": 0.0},
        {"session_id": "another"},
    ):
        assert packed([*events[:-1], events[-1]._replace(**changed)]) != kept, changed
    assert packed(events[:-1]) != kept
    assert packed(None) is None is not packed([])


def test_nothing_is_kept_of_a_user_who_is_forgotten(tmp_path: Path) -> None:
    store = loaded(tmp_path / "data" / "table", ROWS)
    assert store.read("u").history is not None
    store.tail.forget(["u"])
    assert store.read("u").history is None
    assert store.kept_histories.made("u", "another", lambda: None) is None
    store.tail.close()


def test_a_row_that_is_damaged_after_it_was_read_is_refused(tmp_path: Path) -> None:
    data = tmp_path / "data" / "table"
    store = loaded(data, ROWS)
    assert store.read("u").history is not None
    store.feast._get_provider().online_store._get_conn(store.feast.config).execute(
        f"UPDATE {store.feast.project}_user_history SET value = X'ff' WHERE feature_name = 'item_ids'"
    )
    with pytest.raises(InputError, match="make load"):
        store.read("u")
    store.tail.close()
