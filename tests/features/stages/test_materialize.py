"""Feast serves what training reads: every user, every item, and requests encoded on both sides."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from contracts.schema import USER_HISTORY_SNAPSHOT
from features.encoding.coclicks import Clicks
from features.encoding.counters import Counters
from features.encoding.user_counts import UserCounts
from features.live.places import state_of
from features.online.live_counters import LiveCounters
from features.online.parity import compare_requests, compare_snapshot
from features.online.snapshot import write_snapshot
from features.online.store import OnlineStore
from features.stages.materialize import ReadBack, parity_spec, run
from features.tables.histories import UserHistories
from features.terms.convention import RECENT
from tests.features.small_log import (
    build,
    history,
    labels,
    materialize,
    random_log,
    row,
    settings,
    statistics,
    validate,
)

pytestmark = pytest.mark.xdist_group("feast")
PARITY = materialize(num_parity_requests=30)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("root") / "data" / "table"
    build(folder, random_log(1, num_requests=200))
    return folder


@pytest.fixture(scope="module")
def report(data: Path) -> dict:
    return dict(run(data, history(lag_s=5, max_length=20), statistics(), PARITY, validate(), labels()))


def test_online_equals_offline(data: Path, report: dict) -> None:
    parts = report["parity_by_part"]
    assert report["parity"] == {"checked": sum(part["checked"] for part in parts.values()), "mismatches": 0}
    assert (parts["users"]["checked"], parts["items"]["checked"], parts["requests"]["checked"]) == (5, 12, 8)
    assert parts["counts"]["checked"] == 5
    assert parts["replay"]["checked"] == 30
    assert json.loads((data / "feature_snapshot" / "parity.json").read_text())["mismatches"] == 0


def test_requests_that_need_events_older_than_the_stored_ones_are_not_compared_but_counted(
    data: Path, report: dict
) -> None:
    stored = UserHistories.open(data / "user_histories")
    table = pq.read_table(data / "impressions" / "impressions.parquet").to_pylist()
    requests = {each["request_index"]: (each["user_index"], each["end_offset"]) for each in table}
    lengths = np.diff(stored.offsets)
    outside = [max(0, end - 10) < max(0, lengths[user] - 20) for user, end in requests.values()]
    assert 0 < report["parity_requests_left_out"] == sum(outside) < len(requests)


def test_the_snapshot_holds_each_user_s_newest_events(data: Path, report: dict) -> None:
    table = pq.read_table(data / "feature_snapshot" / "user_history.parquet")
    assert table.schema.equals(USER_HISTORY_SNAPSHOT)
    stored = UserHistories.open(data / "user_histories")
    for number, line in enumerate(table.to_pylist()):
        kept = slice(max(stored.offsets[number], stored.offsets[number + 1] - 20), stored.offsets[number + 1])
        assert line["occurred_at"] == stored.occurred_at[kept].tolist()
        assert [f"i{index - 2:02}" for index in stored.item_index[kept]] == line["item_ids"]
        assert line["event_timestamp"].timestamp() * 1e6 == line["occurred_at"][-1]


def test_the_same_input_gives_the_same_snapshot(data: Path, report: dict, tmp_path: Path) -> None:
    stored = UserHistories.open(data / "user_histories")
    again = write_snapshot(data, stored, 20, settings(lag_s=5, max_length=20), tmp_path)
    assert again["snapshot_id"] == report["snapshot_id"]
    for name in ("user_history.parquet", "user_state.parquet", "item_profile.parquet", "snapshot.json"):
        assert (tmp_path / name).read_bytes() == (data / "feature_snapshot" / name).read_bytes()


def test_a_changed_count_changes_the_snapshot_s_identity(tmp_path: Path) -> None:
    ids = []
    for name, label in [("one", 0), ("other", 1)]:
        folder = tmp_path / name
        stored = build(folder, [row("u", "a", 0), row("v", "a", 0), row("v", "a", 5, label)])
        (folder / "made").mkdir()
        ids.append(write_snapshot(folder, stored, 5, settings(), folder / "made")["snapshot_id"])
    assert ids[0] != ids[1]


@pytest.fixture
def store(data: Path, report: dict) -> OnlineStore:
    return OnlineStore.open(state_of(data))


def test_a_history_that_differs_by_one_event_is_found_and_named(data: Path, store: OnlineStore) -> None:
    class Forgetful(OnlineStore):
        def histories(self, user_ids):
            found = super().histories(user_ids)
            return [
                each and (replace(each, label=each.label * 0) if user == "u1" else each)
                for user, each in zip(user_ids, found, strict=True)
            ]

        def read(self, user_id):
            return super().read(user_id)._replace(history=self.history(user_id))

    forgetful = Forgetful(**vars(store))
    users, _, _ = compare_snapshot(forgetful, data / "feature_snapshot")
    assert users.mismatches == 1
    assert (users.first[0]["whose"], users.first[0]["field"]) == ("u1", "labels")
    spec = parity_spec(history(lag_s=5, max_length=20), statistics())
    requests, _ = compare_requests(forgetful, data, spec, 20, 500)
    assert requests.mismatches > 0
    assert {named["field"] for named in requests.first} == {"label"}


def with_counters(store: OnlineStore, counters: Counters) -> OnlineStore:
    return replace(store, live=LiveCounters(counters, store.live.items.known, store.live.users.known))


def test_a_counter_that_differs_is_found_and_named(data: Path, store: OnlineStore) -> None:
    class Miscounting(OnlineStore):
        def counters_of(self, user_id, counted):
            counts = UserCounts.decode(counted)
            return super().counters_of(user_id, replace(counts, clicks=counts.clicks + 1).encode())

    spec = parity_spec(history(lag_s=5, max_length=20), statistics())
    requests, _ = compare_requests(Miscounting(**vars(store)), data, spec, 20, 500)
    assert requests.mismatches > 0
    assert all(named["field"].startswith("user_") for named in requests.first)


def test_a_row_of_counts_that_differs_is_found_and_named(data: Path, store: OnlineStore) -> None:
    class Forgetful(OnlineStore):
        def counted(self, user_ids):
            found = super().counted(user_ids)
            return [b"" if user == "u2" else row for user, row in zip(user_ids, found, strict=True)]

    _, counts, _ = compare_snapshot(Forgetful(**vars(store)), data / "feature_snapshot")
    assert (counts.checked, counts.mismatches) == (5, 1)
    assert (counts.first[0]["whose"], counts.first[0]["field"]) == ("u2", "counts")


TOLD = statistics(context=True, devices=("phone", "tv"), coclick_rank=4)


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A log with contexts of requests and factorised co-clicks, loaded into Feast."""
    folder = tmp_path_factory.mktemp("told") / "data" / "table"
    build(folder, random_log(5, num_requests=200), TOLD, lag_s=5)
    assert run(folder, history(lag_s=5, max_length=20), TOLD, PARITY, validate(), labels())["parity"]["mismatches"] == 0
    return folder


def differing(store: OnlineStore, data: Path) -> set[str]:
    """The fields of the first mismatches among all requests."""
    spec = parity_spec(history(lag_s=5, max_length=20), TOLD)
    return {named["field"] for named in compare_requests(store, data, spec, 20, 500)[0].first}


def test_contexts_and_co_clicks_are_the_same_on_both_sides_and_not_empty(told: Path) -> None:
    spec, store = parity_spec(history(lag_s=5, max_length=20), TOLD), OnlineStore.open(state_of(told))
    requests, _ = compare_requests(store, told, spec, 20, 500)
    assert requests.checked > 30
    assert requests.mismatches == 0
    assert {"coclick_user", "coclick_last_1", "coclick_read", "item_is_read", "device_phone"} <= set(spec.scalars)
    assert store.counters.coclicks is not None
    assert store.counters.coclicks.factors.any()
    asked = pq.read_table(told / "impressions" / "requests.parquet")
    assert set(asked["device"].to_pylist()) == {None, "phone", "car"}


def test_requests_whose_recent_clicks_are_older_than_the_stored_ones_are_not_compared(
    told: Path, tmp_path: Path
) -> None:
    few, folder = history(lag_s=5, max_length=12), tmp_path / "data" / "table"
    assert parity_spec(few, TOLD).history_length < RECENT
    shutil.copytree(told, folder)
    report = run(folder, few, TOLD, materialize(num_parity_requests=500), validate(), labels())
    assert report["parity_by_part"]["requests"]["checked"] > 0
    assert report["parity"]["mismatches"] == 0, report["first_mismatches"]


def test_one_click_that_the_online_co_clicks_lack_is_found_and_named(told: Path) -> None:
    store = OnlineStore.open(state_of(told))
    whole = store.counters.coclicks
    assert whole is not None
    kept = np.arange(len(whole.times)) != np.argmin(whole.times)
    without = replace(whole, items=whole.items[kept], times=whole.times[kept], users=whole.users[kept])
    found = differing(with_counters(store, replace(store.counters, coclicks=without)), told)
    assert found
    assert all(name.startswith("coclick_") or name in ("codes", "event_codes") for name in found)


def test_codes_of_users_that_differ_are_found_and_named(told: Path) -> None:
    store = OnlineStore.open(state_of(told))
    whole = store.counters.coclicks
    assert whole is not None
    other = replace(
        whole, codes=-whole.codes, history=Clicks(whole.history.items, whole.history.times, whole.history.users)
    )
    found = differing(with_counters(store, replace(store.counters, coclicks=other)), told)
    assert found
    assert found <= {"codes", "event_codes"}


def test_a_context_that_differs_online_is_found_and_named(told: Path) -> None:
    class Misread(OnlineStore):
        def item_key(self, item_id: str | None) -> int:
            return super().item_key("i00" if item_id == "i01" else item_id)

    found = differing(Misread(**vars(OnlineStore.open(state_of(told)))), told)
    assert found
    assert found <= {"item_is_read", "coclick_read"}


def test_the_counters_of_items_are_built_once_and_those_of_all_users_never(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And not five times: for the load, twice for each comparison, and for the temporary store of the replay."""
    folder, built = tmp_path / "data" / "table", []
    build(folder, random_log(2, num_requests=40))
    for name in ("from_folder", "of_items"):
        build_all = getattr(Counters, name)
        monkeypatch.setattr(Counters, name, lambda *given, to=build_all, of=name: built.append(of) or to(*given))
    report = run(folder, history(lag_s=5, max_length=20), statistics(), PARITY, validate(), labels())
    assert report["parity"]["mismatches"] == 0
    assert built == ["of_items"]


def test_written_rows_are_read_back_with_a_sample_of_the_others(tmp_path: Path) -> None:
    folder, few = tmp_path / "data" / "table", materialize(num_read_back=2)
    rows = random_log(3, num_requests=60)
    build(folder, rows)
    sections = (history(lag_s=5, max_length=20), statistics(), few, validate(), labels())
    first = run(folder, *sections)["read_back"]
    assert first["user_history"] == {"rows": 5, "written": 5, "read_back": 2}
    assert first["item_profile"] == {"rows": 12, "written": 12, "read_back": 2}
    again = run(folder, *sections)
    assert again["read_back"]["user_history"] == {"rows": 5, "written": 0, "read_back": 2}
    assert again["parity_by_part"]["users"] == {"checked": 2, "mismatches": 0}
    build(folder, [*rows, row("u1", rows[0]["item_id"], 10**6)])
    changed = run(folder, *sections)["read_back"]["user_history"]
    assert changed == {"rows": 5, "written": 1, "read_back": 3}


def test_each_snapshot_has_its_own_sample_and_the_same_one_every_time() -> None:
    ids = pa.chunked_array([[f"u{number}" for number in range(1000)]])

    def sample(seed: str) -> list[int]:
        back = ReadBack(20, seed)
        back.tell("user_history", pa.array(["u7", "u8"]))
        return np.flatnonzero(back.sample("user_history", ids)).tolist()

    assert sample("a") == sample("a") != sample("b")
    assert len(sample("a")) == 22
    assert {7, 8} <= set(sample("a"))
    assert ReadBack(None, "a").sample("user_history", ids).all()
