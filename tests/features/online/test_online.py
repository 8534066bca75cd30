"""The service reads Feast in process, without the tools that filled it, and gets what was stored."""

import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from contracts.errors import InputError
from features.live.places import read_stamp, state_of
from features.online.load import load
from features.online.snapshot import write_snapshot
from features.online.store import OnlineStore, StaleStoreError
from tests.features.live_tails import event
from tests.features.small_log import START_US, build, random_log, row, settings

pytestmark = pytest.mark.xdist_group("feast")
ROOT = Path(__file__).resolve().parents[3]


def loaded(data: Path, rows: list[dict], max_length: int = 50) -> OnlineStore:
    histories = build(data, rows)
    (data / "feature_snapshot").mkdir(exist_ok=True)
    write_snapshot(data, histories, max_length, settings(), data / "feature_snapshot")
    load(data, state_of(data))
    return OnlineStore.open(state_of(data))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("root") / "data" / "table"
    rows = [row("🎬", f"ü{number}", number) for number in range(9)]
    loaded(folder, [*rows, row("v", "ü0", 3), row("silent", "ü0", 20, label=0)], max_length=5)
    return folder


@pytest.fixture(scope="module")
def store(data: Path) -> OnlineStore:
    return OnlineStore.open(state_of(data))


def test_the_newest_events_come_back_oldest_first(store: OnlineStore) -> None:
    history = store.history("🎬")
    assert history is not None
    assert history.item_ids == [f"ü{number}" for number in range(4, 9)]
    assert ((history.occurred_at - START_US) / 1e6).tolist() == [4, 5, 6, 7, 8]
    assert history.label.tolist() == [1] * 5
    assert history.session.tolist() == [0] * 5
    kinds = [str(column.dtype) for column in (history.occurred_at, history.label, history.session)]
    assert kinds == ["int64", "float32", "int64"]


def test_users_that_are_not_stored_have_no_history(store: OnlineStore) -> None:
    assert store.history("nobody") is None
    assert store.history("silent") is None
    assert store.histories(["nobody", "v"])[1] is not None


def test_the_log_s_end_is_after_its_newest_row_clicked_or_not(store: OnlineStore) -> None:
    assert store.log_end == START_US + 20_000_001


def test_counters_are_keyed_by_ids(store: OnlineStore) -> None:
    shows, _ = store.counters.item_counters.read(store.item_keys(["ü0", "ü1", "new"]), store.log_end)
    assert shows.tolist() == [3, 1, 0]
    for user, wanted in (("silent", [1, 1]), ("v", [1, 1]), ("x", [0, 0])):
        key, counters = store.counters_of(user, store.read(user).counted)
        pair = counters.pair_key(key, store.item_keys(["ü0"]))
        read = [
            counters.user_counters.read([key], store.log_end),
            counters.user_item_counters.read(pair, store.log_end),
        ]
        assert [int(shows[0]) for shows, _ in read] == wanted


def test_profiles_hold_what_the_catalogue_says(store: OnlineStore) -> None:
    assert store.profiles(["ü3", "ü2", "new"]) == [
        ("title of ü3", ["cü3"], None, None),
        ("title of ü2", ["cü2"], START_US, [0.5, -2.0]),
        None,
    ]


def test_a_state_that_was_never_loaded_names_the_command(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="make load"):
        OnlineStore.open(tmp_path)


def test_reading_needs_none_of_the_tools_that_load(data: Path) -> None:
    script = textwrap.dedent(f"""
        import sys
        from pathlib import Path
        for blocked in ("ibis", "duckdb", "lightning", "dagster", "dvc", "great_expectations", "pyspark"):
            sys.modules[blocked] = None
        from features.online.store import OnlineStore
        from feast import Entity
        assert "typeguard" not in Entity.__init__.__code__.co_names  # it was half of what importing Feast costs
        print(OnlineStore.open(Path({str(state_of(data))!r})).history("v").item_ids)
        assert "torch" not in sys.modules  # it was half of the rest
        from feast.torch_wrapper import get_torch
        assert get_torch() is sys.modules["torch"]  # for those who ask Feast for tensors
    """)
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "['ü0']"


def test_a_second_load_of_the_same_snapshot_does_nothing(data: Path) -> None:
    before = state_of(data).resolve()
    assert not load(data, state_of(data))
    assert state_of(data).resolve() == before


def test_a_load_that_fails_leaves_the_last_good_one(tmp_path: Path) -> None:
    folder = tmp_path / "data" / "table"
    store = loaded(folder, random_log(1))
    snapshot = folder / "feature_snapshot"
    (snapshot / "snapshot.json").write_text((snapshot / "snapshot.json").read_text().replace(store.snapshot_id, "new"))
    (snapshot / "user_history.parquet").write_bytes(b"not Parquet")
    with pytest.raises(Exception, match="user_history"):
        load(folder, state_of(folder))
    again = OnlineStore.open(state_of(folder))
    assert again.snapshot_id == store.snapshot_id
    assert again.history("u0") is not None
    assert len(list(state_of(folder).parent.iterdir())) == 2  # the link and what it points to


def test_folders_of_killed_loads_are_removed(data: Path) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    left = state_of(data).parent / f".feast-{ended.pid}-abc"
    left.mkdir()
    (left / "online.db").write_text("half")
    load(data, state_of(data))
    assert not left.exists()
    assert read_stamp(state_of(data)) is not None


def test_an_opened_store_stays_with_its_snapshot_when_a_newer_one_is_loaded(tmp_path: Path) -> None:
    folder = tmp_path / "data" / "table"
    rows = random_log(2)
    first = loaded(folder, rows)
    longer = build(folder, [*rows, row("u0", "i01", 9000)])
    newer = write_snapshot(folder, longer, 50, settings(), folder / "feature_snapshot")
    assert load(folder, state_of(folder))
    second = OnlineStore.open(state_of(folder))
    old, new = first.history("u0"), second.history("u0")
    assert old is not None
    assert new is not None
    assert first.snapshot_id != second.snapshot_id == newer["snapshot_id"]
    assert new.item_ids == [*old.item_ids, "i01"]


@pytest.mark.parametrize("name", ["online.db", "registry.db", "ids.json", "item_counters.packed.npy", "stamp.json"])
@pytest.mark.parametrize("damage", [b"garbage", b"", None])
def test_a_damaged_state_names_make_load_and_the_next_load_mends_it(
    data: Path, tmp_path: Path, name: str, damage: bytes | None
) -> None:
    root = tmp_path / "data" / data.name
    shutil.copytree(data, root)
    shutil.copytree(state_of(data), state_of(root))
    file = state_of(root) / name
    file.unlink()
    if damage is not None:
        file.write_bytes(damage)
    with pytest.raises(InputError, match="make load"):
        OnlineStore.open(state_of(root))
    if damage == b"garbage":
        assert load(root, state_of(root))
        assert OnlineStore.open(state_of(root)).history("v") is not None


def test_a_service_that_reads_does_not_make_the_next_load_do_it_again(data: Path) -> None:
    store = OnlineStore.open(state_of(data))
    assert store.history("v") is not None
    for sidecar in ("online.db-wal", "online.db-shm"):
        (state_of(data) / sidecar).write_bytes(b"")
    assert not load(data, state_of(data))


def test_a_store_that_must_be_opened_again_says_so_before_it_keeps_anything(tmp_path: Path) -> None:
    store = loaded(tmp_path / "data" / "table", [row(f"u{number}", f"i{number}", number) for number in range(3)])
    store.append([event("absorbed")])
    store.tail.prune(store.tail.newest_seq())
    with pytest.raises(StaleStoreError, match="have left the tail"):
        store.append([event("sent")])
    assert store.tail.since(0) == []


@pytest.mark.parametrize("how", ["overwritten", "cut short"])
def test_damaged_histories_of_an_open_store_are_an_error_with_the_next_step(tmp_path: Path, how: str) -> None:
    """A worker that is asked answers 503 with this, and no 500."""
    store = loaded(tmp_path / "data" / "table", [row(f"u{number}", "i", number) for number in range(2_000)])
    path = state_of(tmp_path / "data" / "table") / "online.db"
    whole = path.read_bytes()
    with path.open("r+b") as handle:
        handle.truncate(8_192) if how == "cut short" else handle.write(b"garbage!" * (len(whole) // 8))
    with pytest.raises(InputError, match=r"cannot be read: DatabaseError: .*`make load` loads it again"):
        store.histories([f"u{number}" for number in range(2_000)])
    store.tail.close()
