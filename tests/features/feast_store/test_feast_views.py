"""Feast's own answer as of a time is what training and serving read: the same folders, the same counts.

On EB-NeRD, for every candidate: test_retrieve_ebnerd.py.
"""

import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from feast import FeatureStore, FeatureView, FileSource

from contracts.errors import InputError
from contracts.schema import ROLE_IMPRESSION
from features.encoding.counters import NAMES, AsOfCounter, Counters
from features.live.places import state_of
from features.online.load import load, offline_store
from features.online.snapshot import write_snapshot
from features.stages.materialize import run
from features.terms.convention import micros
from tests.features import small_log
from tests.features.small_log import START_US, build, history, random_log, row

pytestmark = pytest.mark.xdist_group("feast")
DAY_S = 86_400

Int64 = npt.NDArray[np.int64]
Asked = tuple[str, str, int]
"""User, item, the request's time in microseconds."""


class Log(NamedTuple):
    """A source's folder and Feast over it."""

    data: Path
    feast: FeatureStore

    def views(self) -> dict[str, FeatureView]:
        return {name: self.feast.get_feature_view(name) for name in NAMES}

    def folders(self) -> dict[str, Path]:
        """Where Feast reads each table."""
        sources = {name: view.batch_source for name, view in self.views().items()}
        return {name: Path(source.path) for name, source in sources.items() if isinstance(source, FileSource)}


@pytest.fixture(scope="module", params=[1, 3], ids=["one file", "several files"])
def loaded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As the stage materialize loads it. Times are whole seconds, so that rows stand at many of the cuts."""
    data = tmp_path_factory.mktemp("root") / "data" / "table"
    build(data, [*random_log(3, num_requests=120), row("early", "i00", 0)])
    for name in NAMES:
        split(data / name, request.param)
    sections = (small_log.statistics(), small_log.materialize(num_parity_requests=5), small_log.validate())
    run(data, history(), *sections, small_log.labels())
    return data


@pytest.fixture
def small(loaded: Path, tmp_path: Path) -> Iterator[Log]:
    with offline_store(state_of(loaded), tmp_path) as feast:
        yield Log(loaded, feast)


def split(folder: Path, num_files: int) -> None:
    """Write the rows of a table again as so many files."""
    table = ds.dataset(folder, format="parquet").to_table()
    for path in folder.iterdir():
        path.unlink()
    for number, rows in enumerate(np.array_split(np.arange(len(table)), num_files)):
        pq.write_table(table.take(rows), folder / f"2024-{number:02}.parquet")


def requests_of(log: Log) -> list[Asked]:
    """Every candidate of the log at its request's time."""
    interactions = ds.dataset(log.data / "validated_interactions", format="parquet")
    rows = interactions.to_table(filter=ds.field("role") == ROLE_IMPRESSION)
    times = rows["occurred_at"].cast(pa.int64()).to_pylist()
    return list(zip(rows["user_id"].to_pylist(), rows["item_id"].to_pylist(), times, strict=True))


def ask_feast(feast: FeatureStore, features: Any, asked: Sequence[Asked], at_us: Int64) -> dict[str, npt.NDArray[Any]]:
    """What Feast's join finds at or before each of [C, B] times, for each of B asked; NaN where it says null."""
    users, items, _ = zip(*asked, strict=True)
    entities = pd.DataFrame(
        {
            "row": np.arange(at_us.size),
            "user_id": users * len(at_us),
            "item_id": items * len(at_us),
            "event_timestamp": pd.to_datetime(at_us.ravel(), unit="us", utc=True),
        }
    )
    job = feast.get_historical_features(entity_df=entities, features=features, full_feature_names=True)
    table = job.to_arrow().sort_by("row")
    assert table["row"].to_pylist() == list(range(at_us.size))
    found = [name for name in table.column_names if "__" in name]
    return {name: table[name].cast(pa.float64()).to_numpy().reshape(at_us.shape) for name in found}


def compare(log: Log, asked: Sequence[Asked]) -> tuple[int, int]:
    """Assert that Feast and AsOfCounter agree with every lag and window that the views name.

    Ours reads the folders that Feast has registered. Returns how many counts were compared, and how many are of keys
    without a row before.
    """
    (folder,) = {path.parent for path in log.folders().values()}
    known = ds.dataset(folder / "user_item_counters", format="parquet").to_table()
    item_ids, user_ids = (known[key].unique().sort() for key in ("item_id", "user_id"))
    counters = Counters.from_folder(folder, item_ids, user_ids)
    users, items, times = zip(*asked, strict=True)
    at = np.array(times, np.int64)
    user_keys, item_keys = positions(users, user_ids), positions(items, item_ids)
    pair_keys = counters.pair_key(user_keys, item_keys)
    num_compared = num_quiet = 0
    for view, keys in zip(log.views().values(), (item_keys, user_keys, pair_keys), strict=True):
        table: AsOfCounter = getattr(counters, view.name)
        total, *windows = view.tags["scopes"].split(",")
        assert total == "total"
        windows_us = [micros(float(window.removesuffix("s"))) for window in windows]
        for column, what in enumerate(("shows", "clicks")):
            lag_us = micros(float(view.tags[f"{what}_lag_s"]))
            cuts = at - lag_us - np.array([0, *windows_us], np.int64)[:, None]
            (feast,) = ask_feast(log.feast, [f"{view.name}:{what}"], asked, cuts - 1).values()
            np.testing.assert_array_equal(np.isnan(feast), table.first_seen(keys) >= cuts, view.name)
            newest, *older = counts = np.nan_to_num(feast)
            np.testing.assert_array_equal(counts, table.read(keys, cuts)[column], f"{view.name} {what}")
            for window_us, old in zip(windows_us, older, strict=True):
                ours = table.window(keys, at, lag_us, window_us)[column]
                np.testing.assert_array_equal(newest - old, ours, f"{view.name} {what} {window_us}")
            num_compared, num_quiet = num_compared + feast.size, num_quiet + int(np.isnan(feast).sum())
    return num_compared, num_quiet


def positions(ids: Sequence[str], known: pa.Array) -> Int64:
    """The counters' keys; -1 where unknown."""
    place = {name: number for number, name in enumerate(known.to_pylist())}
    return np.array([place.get(name, -1) for name in ids], np.int64)


def test_feast_answers_what_training_reads_at_every_lag_and_window(small: Log) -> None:
    requests = requests_of(small)
    num_compared, num_quiet = compare(small, requests)
    assert num_compared == len(requests) * (2 * 3 + 2 * 3 + 2)
    assert 0 < num_quiet < num_compared


def test_keys_that_were_never_seen_are_null_in_feast_and_zero_in_training(small: Log) -> None:
    at = START_US + 4000 * 1_000_000
    num_compared, num_quiet = compare(small, [("nobody", "nothing", at)])
    assert num_quiet == num_compared
    compare(small, [("nobody", "i00", at), ("u0", "nothing", at), ("early", "i01", at)])


def test_a_key_that_has_been_quiet_for_years_keeps_its_counts(small: Log) -> None:
    at = START_US + 800 * DAY_S * 1_000_000
    compare(small, [("early", "i00", at)])
    (clicks,) = ask_feast(small.feast, ["user_item_counters:clicks"], [("early", "i00", at)], np.array([[at]])).values()
    assert clicks.tolist() == [[1]]


def test_events_exactly_at_the_cut_are_unknown(small: Log) -> None:
    """Feast's join is inclusive: hence the microsecond before."""
    cut = np.array([[START_US], [START_US - 1]])  # `early` clicked at START_US, and never again
    every = [f"{name}:{what}" for name in NAMES for what in ("shows", "clicks")]
    found = ask_feast(small.feast, every, [("early", "i00", 0)], cut)
    np.testing.assert_array_equal(found["user_counters__clicks"], [[1], [np.nan]])
    np.testing.assert_array_equal(found["user_item_counters__shows"], [[1], [np.nan]])
    compare(small, [("early", "i00", START_US + lag_s * 1_000_000) for lag_s in (10, 30)])  # at t - lag itself


def test_feast_has_the_very_folders_that_training_reads(small: Log) -> None:
    assert small.folders() == {name: small.data.resolve() / name for name in NAMES}
    tags = [
        (view.tags["shows_lag_s"], view.tags["clicks_lag_s"], view.tags["scopes"]) for view in small.views().values()
    ]
    assert tags == [
        ("10.0", "30.0", "total,60s,3600s"),
        ("10.0", "10.0", "total,60s,3600s"),
        ("10.0", "10.0", "total"),
    ]


def test_no_counter_is_copied_into_the_online_store(small: Log) -> None:
    """A user's counts are one row there, of a view of their own."""
    assert not any(view.online for view in small.views().values())
    with sqlite3.connect(state_of(small.data) / "online.db") as connection:
        tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    assert tables == {"leitmotif_user_history", "leitmotif_user_state", "leitmotif_item_profile"}


def test_a_snapshot_that_does_not_say_how_counters_are_read_is_refused(tmp_path: Path) -> None:
    data = tmp_path / "data" / "table"
    write_snapshot(data, build(data, random_log(1)), 5, history().model_dump(mode="json"), tmp_path)
    with pytest.raises(InputError, match="make run"):
        load(data, state_of(data), tmp_path)
    assert not state_of(data).exists()
