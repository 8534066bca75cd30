"""Feast's online stores with live events, both engines: stock where nothing is live, the union where something is."""

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from feast import FeatureStore, FeatureView
from feast.protos.feast.types.Value_pb2 import Int64List, Value

from contracts.errors import InputError
from features.sealed.event import OUTCOME, Fate
from tests.features.feast_stores import (
    LENGTH,
    NAMES,
    append,
    close,
    history_of,
    key_of,
    newest_at,
    online_of,
    open_feast,
    read,
    row_of,
    seen,
    timestamp_of,
    views,
    write,
)
from tests.features.live_tails import PLACES, event, server_of

pytestmark = pytest.mark.xdist_group("redis")
SECOND = 1_000_000
BASE = [event(f"e{number}", item=f"i{number % 5}", at=number * 700 * SECOND) for number in range(12)]
LATER = [event(f"l{number}", item=f"j{number}", at=(12 * 700 + number) * SECOND) for number in range(3)]


@pytest.fixture(params=PLACES)
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[..., FeatureStore]]:
    """make(ours) opens Feast over a store of this engine."""
    server = server_of(request, request.param)
    made: list[FeatureStore] = []

    def open_one(ours: bool = True) -> FeatureStore:
        made.append(open_feast(request.param, tmp_path / ("ours" if ours else "stock"), server, ours))
        return made[-1]

    yield open_one
    for store in made:
        close(store)


@pytest.fixture
def store(make: Callable[..., FeatureStore]) -> FeatureStore:
    return make()


@pytest.mark.parametrize("view", ["plain", "user_history"])
def test_without_live_events_every_answer_is_that_of_feasts_own_store(
    make: Callable[..., FeatureStore], view: str
) -> None:
    ours, stock = make(), make(ours=False)
    rows = [row_of("u", BASE), row_of("v", BASE[:1]), row_of("w", BASE * 3)]
    answers = []
    for store in (ours, stock):
        write(store, rows[:2], view)
        write(store, rows[2:], view)
        direct = online_of(store).online_read(
            store.config, store.get_feature_view(view), [key_of("v"), key_of("nobody")], ["labels", "item_ids"]
        )
        answers.append((read(store, ["w", "nobody", "u"], view=view), read(store, ["v"], ["sessions"], view), direct))
    assert answers[0] == answers[1]
    assert answers[0][0][2] == seen(history_of(BASE))


def test_a_read_is_the_base_and_the_live_events_in_order(store: FeatureStore) -> None:
    write(store, [row_of("u", BASE), row_of("v", BASE[:3])])
    late = event("late", at=350 * SECOND)
    assert append(store, [*LATER, late, BASE[4]]) == [Fate.NEW] * 5
    expected = history_of([*BASE, *LATER, late])
    assert read(store, ["v", "u", "nobody"])[:2] == [seen(history_of(BASE[:3])), seen(expected)]
    assert read(store, ["u"], ["sessions", "item_ids"]) == [
        {"sessions": expected.sessions.tolist(), "item_ids": expected.events.item_ids}
    ]
    assert timestamp_of(store, "u") == newest_at(LATER)


def test_only_the_features_asked_for_are_returned(store: FeatureStore) -> None:
    write(store, [row_of("u", BASE)])
    append(store, LATER)
    view = store.get_feature_view("user_history")
    asked = ["labels"]
    (_, values), *_ = online_of(store).online_read(store.config, view, [key_of("u")], asked)
    assert list(values) == ["labels"]
    assert asked == ["labels"]
    append(store, [event("x", user="v")])
    (_, values), *_ = online_of(store).online_read(store.config, view, [key_of("v")], None)
    assert set(values) == set(NAMES)


def test_the_newest_of_a_long_history_are_kept_and_sessions_go_on(store: FeatureStore) -> None:
    long = [event(f"e{number}", at=number * 1900 * SECOND) for number in range(3 * LENGTH)]
    write(store, [row_of("u", long[: 2 * LENGTH])])
    append(store, long[2 * LENGTH : -5])
    append(store, [event("older than all that is kept", at=1)])
    assert read(store, ["u"]) == [seen(history_of(long[:-5]))]


def test_a_user_whom_only_the_tail_knows_has_a_history(store: FeatureStore) -> None:
    append(store, LATER)
    assert read(store, ["u"]) == [seen(history_of(LATER))]
    assert timestamp_of(store, "u") == newest_at(LATER)


def test_an_outcome_turns_a_show_of_the_base_into_a_click(store: FeatureStore) -> None:
    shown = [each._replace(label=0.0) for each in BASE]
    write(store, [row_of("u", shown)])
    append(store, [BASE[3]._replace(revision=OUTCOME)])
    assert read(store, ["u"], ["labels"]) == [{"labels": [float(number == 3) for number in range(len(BASE))]}]


def test_a_forgotten_user_is_unknown_although_the_base_holds_them(store: FeatureStore) -> None:
    write(store, [row_of("u", BASE), row_of("v", BASE)])
    append(store, LATER)
    online_of(store).tail(store.config).forget(["u"])
    assert append(store, [event("again")]) == [Fate.FORGOTTEN]
    nobody, gone, other = read(store, ["nobody", "u", "v"])
    assert gone == nobody
    assert other == seen(history_of(BASE))


def test_the_base_never_goes_back_in_time(store: FeatureStore) -> None:
    older, newer = BASE[:6], BASE[:9]
    write(store, [row_of("u", newer), row_of("v", older)])
    write(store, [row_of("u", older), row_of("v", newer)])
    assert read(store, ["u", "v"]) == [seen(history_of(newer))] * 2
    write(store, [row_of("u", BASE), row_of("u", older)])
    assert read(store, ["u"]) == [seen(history_of(BASE))]


def test_a_base_of_the_same_time_takes_the_place_of_the_stored_one(store: FeatureStore) -> None:
    write(store, [row_of("u", BASE)])
    relabelled = [each._replace(label=0.0) for each in BASE]
    write(store, [row_of("u", relabelled)])
    assert read(store, ["u"]) == [seen(history_of(relabelled))]


def test_two_bases_within_one_second_are_told_apart(store: FeatureStore) -> None:
    first, second = [event("a", at=1)], [event("a", at=1), event("b", at=2)]
    write(store, [row_of("u", second)])
    write(store, [row_of("u", first)])
    assert read(store, ["u"]) == [seen(history_of(second))]


def test_a_large_batch_reports_every_row_of_its_progress(store: FeatureStore) -> None:
    done: list[int] = []
    rows = [row_of(f"u{number}", BASE[:1]) for number in range(450)]
    view = store.get_feature_view("user_history")
    online_of(store).online_write_batch(store.config, view, rows, done.append)
    assert sum(done) == 450
    assert read(store, ["u0", "u449"]) == [seen(history_of(BASE[:1]))] * 2


def test_apply_and_teardown_leave_the_live_events_alone(store: FeatureStore, tmp_path: Path) -> None:
    write(store, [row_of("u", BASE)])
    append(store, LATER)
    user, history, _ = views(tmp_path / "ours")
    store.apply([user, history], objects_to_delete=[store.get_feature_view("plain")], partial=False)
    assert read(store, ["u"]) == [seen(history_of([*BASE, *LATER]))]
    store.teardown()
    store.apply(views(tmp_path / "ours"))
    assert read(store, ["u"]) == [seen(history_of(LATER))]


def test_a_view_that_is_no_sequence_takes_no_events(store: FeatureStore) -> None:
    with pytest.raises(InputError, match="plain is not a sequence"):
        online_of(store).append(store.config, store.get_feature_view("plain"), LATER)


@pytest.mark.parametrize("changed", [{"session_gap_s": "soon"}, {"max_length": None}])
def test_a_tag_that_cannot_be_read_is_an_error_that_names_it(store: FeatureStore, changed: dict[str, Any]) -> None:
    view: FeatureView = store.get_feature_view("user_history")
    view.tags = {name: value for name, value in (view.tags | changed).items() if value is not None}
    with pytest.raises(InputError, match="user_history is tagged as a sequence") as refusal:
        online_of(store).online_read(store.config, view, [key_of("u")])
    assert (next(iter(changed)) if None in changed.values() else "soon") in str(refusal.value)


def test_a_stored_row_of_another_version_is_an_error_that_says_what_to_do(store: FeatureStore) -> None:
    key, values, at, created = row_of("u", BASE)
    write(store, [(key, values | {"event_keys": Value(int64_list_val=Int64List(val=[1]))}, at, created)])
    append(store, LATER)
    with pytest.raises(InputError, match="make load"):
        read(store, ["u"])


@pytest.mark.parametrize("make", ["redis", "cluster"], indirect=True)
def test_redis_read_asynchronously_has_the_live_events_too(make: Callable[..., FeatureStore]) -> None:
    store = make()
    write(store, [row_of("u", BASE)])
    write(store, [row_of("u", BASE)], "plain")
    append(store, LATER)
    features = ["user_history:item_ids", "plain:labels"]

    async def ask() -> dict[str, Any]:
        response = await store.get_online_features_async(features, [{"user_id": "u"}])
        await online_of(store)._client_async.aclose()
        return response.to_dict()

    answer = asyncio.run(ask())
    assert answer["item_ids"] == [history_of([*BASE, *LATER]).events.item_ids]
    assert answer["labels"] == [[1.0] * len(BASE)]
