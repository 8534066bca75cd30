"""A worker holds nothing of users: their rows are read by id, listed in pages, and go when they are forgotten."""

import json
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.errors import InputError
from features.encoding.as_of import AsOfCounter
from features.encoding.user_counts import NO_COUNTS
from features.feast_store import online_rows
from features.live.places import STAMP, state_of
from features.live.spellings import Wanted
from features.live.traces import look_into
from features.online.hashed_ids import HashedIds, hashes_of
from features.online.load import load
from features.online.snapshot import write_snapshot
from features.online.store import OnlineStore
from tests.features.online.test_online import loaded
from tests.features.small_log import build, random_log, row, settings, statistics

pytestmark = pytest.mark.xdist_group("feast")
HELD_BYTES = 20_000


def opened_bytes(state: Path) -> tuple[OnlineStore, int]:
    """A store and what opening it left in Python's and numpy's memory."""
    OnlineStore.open(state).tail.close()  # what libraries keep of the first
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        store = OnlineStore.open(state)
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    return store, after - before


def test_a_worker_holds_as_much_with_five_users_as_with_five_hundred(tmp_path: Path) -> None:
    held = []
    for num_users in (5, 500):
        data = tmp_path / str(num_users) / "data" / "table"
        rows = [row(f"u{user:04}", f"i{item}", item, item % 2) for user in range(num_users) for item in range(8)]
        loaded(data, rows).tail.close()
        store, num_bytes = opened_bytes(state_of(data))
        held.append(num_bytes)
        counters = store.counters
        assert all(len(each.packed) == 0 for each in (counters.user_counters, counters.user_item_counters))
        assert (len(store.live.users.known), len(store.live.items.known)) == (0, 8)
        key, own = store.counters_of("u0003", store.read("u0003").counted)
        assert own.user_counters.read([key], store.log_end)[0].tolist() == [8]
        store.tail.close()
    assert held[1] < held[0] + HELD_BYTES, held


def test_counts_of_items_are_memory_mapped(tmp_path: Path) -> None:
    store = loaded(tmp_path / "data" / "table", random_log(1, num_requests=200))
    table = store.live.logged.item_counters
    assert isinstance(table, AsOfCounter)
    for array in table.arrays():
        holder = array
        while isinstance(holder, np.ndarray) and not isinstance(holder, np.memmap):
            assert holder.base is not None, "a copy"
            holder = holder.base


def test_a_state_of_before_rows_of_counts_is_refused_and_loaded_again(tmp_path: Path) -> None:
    data = tmp_path / "data" / "table"
    loaded(data, random_log(1)).tail.close()
    path = state_of(data) / STAMP
    stamp = json.loads(path.read_text())
    path.write_text(json.dumps({key: value for key, value in stamp.items() if key != "layout"}))
    with pytest.raises(InputError, match=r"was loaded by another version. `make load` loads it again"):
        OnlineStore.open(state_of(data))
    assert load(data, state_of(data))
    assert OnlineStore.open(state_of(data)).read("u0").counted
    snapshot = data / "feature_snapshot" / "snapshot.json"
    told = json.loads(snapshot.read_text())
    snapshot.write_text(json.dumps({key: value for key, value in told.items() if key != "layout"}))
    with pytest.raises(InputError, match=r"was made by another version.*`make run` makes it again"):
        load(data, state_of(data))


def test_the_next_load_removes_rows_of_a_forgotten_user(tmp_path: Path) -> None:
    data, rows = tmp_path / "data" / "table", random_log(2)
    counted = statistics(coclick_rank=4)
    told = settings() | {"statistics": counted.model_dump(mode="json")}
    wanted = Wanted(frozenset(["eve"]))
    for more in ([row("eve", "i01", 50), row("eve", "i02", 60, 0)], []):
        histories = build(data, rows + more, counted)
        (data / "feature_snapshot").mkdir(exist_ok=True)
        write_snapshot(data, histories, 50, told, data / "feature_snapshot")
        assert load(data, state_of(data))
        store = OnlineStore.open(state_of(data))
        assert ("eve" in store.live.users.known) == bool(more) == bool(store.read("eve").counted)
        places = [*state_of(data).resolve().iterdir(), *(data / "feature_snapshot").iterdir()]
        naming = {path.name for path in places if (look_into(path, wanted) or wanted.in_text("")).named}
        held = {
            "online.db",
            *(f"{view}{end}" for view in ("user_history", "user_state") for end in (".parquet", ".rows.parquet")),
        }
        assert naming - {"user_events.parquet"} == (held if more else set())
        store.tail.close()


IDS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=6) | st.sampled_from(
    ["a", "ab", "abc", "b", "ba", "é", "é🎬", "a" * 300, "z" * 256]
)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> OnlineStore:
    return loaded(tmp_path_factory.mktemp("root") / "data" / "table", [row("u", "i", 0), row("v", "i", 1)])


@given(st.sets(IDS, max_size=40), st.sampled_from(["", "a", "ab", "é", "zz", "u"]))
def test_users_are_listed_by_how_they_begin(store: OnlineStore, ids: set[str], prefix: str) -> None:
    view = store.state_view
    known = online_rows.stored_ids(store.feast, view).to_pylist()
    online_rows.remove(store.feast, view, known)
    rows = {"user_id": sorted(ids), "event_timestamp": [0] * len(ids), "counts": [NO_COUNTS.encode()] * len(ids)}
    write(store, rows)
    found = list(store.user_ids(prefix))
    assert len(found) == len(set(found))
    assert set(found) == {name for name in ids if name.startswith(prefix)}


def write(store: OnlineStore, rows: dict) -> None:
    import pyarrow as pa

    from features.online.user_state import USER_STATE

    online_rows.write(store.feast, store.state_view, pa.table(rows, schema=USER_STATE))


def test_ids_are_numbered_by_their_hashes_and_none_is_kept() -> None:
    ids = [f"u{number}" for number in range(500)]
    hashes, order = hashes_of(ids)
    known = HashedIds(hashes)
    assert [ids[place] for place in order] == sorted(ids, key=lambda name: known[name])
    assert (len(known), known.get("nobody"), "u3" in known, "nobody" in known) == (500, None, True, False)
    with pytest.raises(TypeError, match="cannot be listed"):
        list(known)
    with pytest.raises(InputError, match=r"'u7' and 'u7' have the same 64-bit hash"):
        hashes_of([*ids, "u7"])
