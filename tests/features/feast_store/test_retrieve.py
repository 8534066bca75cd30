"""What Feast retrieves of a row, in one call, is what training reads: every count, every end_offset, every event."""

from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest
from feast import FeatureStore

from contracts.errors import InputError
from contracts.schema import FIRST_INDEX
from features.feast_store.cut import ARRAYS, SESSIONS
from features.feast_store.repository import definitions
from features.feast_store.retrieve import retrieve
from features.live.places import state_of
from features.online.load import offline_store
from features.stages.materialize import run
from features.tables.event_counts import USER_EVENTS, write_event_counts
from features.tables.histories import UserHistories
from features.terms.convention import micros
from tests.features import small_log
from tests.features.retrieved import candidates, compare
from tests.features.small_log import START, START_US, build, history, random_log, row

pytestmark = pytest.mark.xdist_group("feast")
WANTED = [f"user_history:{name}" for name in (*ARRAYS, SESSIONS)]
HISTORY = history(lag_s=5, max_length=7)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Made by the stages; times are whole seconds, so that many stand at the cuts."""
    data = tmp_path_factory.mktemp("root") / "data" / "table"
    build(data, [*random_log(3, num_requests=150), row("early", "i00", 0)], lag_s=5)
    sections = (small_log.statistics(), small_log.materialize(num_parity_requests=5), small_log.validate())
    run(data, HISTORY, *sections, small_log.labels())
    return data


@pytest.fixture
def feast(small: Path, tmp_path: Path) -> Iterator[FeatureStore]:
    with offline_store(state_of(small), tmp_path) as store:
        yield store


def test_every_row_of_a_small_log_knows_what_training_reads(feast: FeatureStore, small: Path) -> None:
    found = compare(feast, small, HISTORY, small_log.statistics())
    assert found.num_rows == 451
    for name in found.column_names[3:]:
        assert len(found[name].unique()) > 1, name


def test_strangers_know_nothing(feast: FeatureStore) -> None:
    entity_df = pd.DataFrame({"user_id": ["nobody"], "item_id": ["nothing"], "event_timestamp": [START]})
    (found,) = retrieve(feast, entity_df).to_pylist()
    assert {value for name, value in found.items() if name not in entity_df.columns} == {0}


def test_a_history_as_of_a_time_is_what_was_stored_before_it(feast: FeatureStore, small: Path) -> None:
    """By end_offset, as training cuts it: the newest max_length events, and nothing at or after t - lag."""
    impressions, entity_df = candidates(small)
    entity_df = entity_df.drop(columns="item_id")
    found = feast.get_historical_features(entity_df, WANTED).to_arrow().to_pylist()
    stored = UserHistories.open(small / "user_histories")
    names = stored.vocabulary["item_id"].to_pylist()
    lengths = set()
    for line, user, end in zip(
        found, impressions["user_index"].to_pylist(), impressions["end_offset"].to_pylist(), strict=True
    ):
        rows = slice(stored.offsets[user] + max(0, end - HISTORY.max_length), stored.offsets[user] + end)
        lengths.add(end)
        if not end:
            assert {line[name] for name in (*ARRAYS, SESSIONS)} == {None}
            continue
        assert line["item_ids"] == [names[index - FIRST_INDEX] for index in stored.item_index[rows]]
        assert line["occurred_at"] == stored.occurred_at[rows].tolist()
        assert line["labels"] == stored.label[rows].tolist()
        assert line["sessions"] == (stored.session[rows] - stored.session[rows][0]).tolist()
        assert line["occurred_at"][-1] < line["event_timestamp"].timestamp() * 1e6 - micros(HISTORY.lag_s)
    assert min(lengths) == 0
    assert max(lengths) > HISTORY.max_length


def test_at_the_log_s_end_a_history_is_what_is_served(feast: FeatureStore, small: Path) -> None:
    served = pq.read_table(small / "feature_snapshot" / "user_history.parquet")
    asked = pd.DataFrame({"user_id": served["user_id"].to_pylist()})
    asked["event_timestamp"] = pd.Timestamp(START) + pd.Timedelta(days=30)
    found = feast.get_historical_features(asked, WANTED).to_arrow()
    for name in (*ARRAYS, SESSIONS):
        assert found[name].to_pylist() == served[name].to_pylist(), name


def test_strangers_and_the_time_before_all_events_have_no_history(feast: FeatureStore) -> None:
    asked = pd.DataFrame({"user_id": ["nobody", None, "early"], "event_timestamp": [START] * 3})
    found = feast.get_historical_features(asked, ["user_history:item_ids"]).to_arrow()
    assert found["item_ids"].to_pylist() == [None] * 3
    assert feast.get_historical_features(asked.iloc[:0], ["user_history:item_ids"]).to_arrow().num_rows == 0


def test_histories_that_are_gone_are_asked_for_by_name(small: Path, tmp_path: Path) -> None:
    data = tmp_path / "data" / "table"
    with offline_store(tmp_path, tmp_path / "spill") as store:
        store.apply(definitions(data, small / "feature_snapshot", HISTORY, small_log.statistics()))
        asked = pd.DataFrame({"user_id": ["u0"], "event_timestamp": [START]})
        with pytest.raises(InputError, match=r"user_histories.*make run"):
            store.get_historical_features(asked, ["user_history:item_ids"]).to_arrow()


def test_event_counts_are_the_same_however_many_are_made_at_once(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored = UserHistories.open(small / "user_histories")
    monkeypatch.setattr("features.tables.event_counts.EVENTS_AT_ONCE", 3)
    num_rows = write_event_counts(stored, tmp_path / "few.parquet")
    few, whole = pq.read_table(tmp_path / "few.parquet"), pq.read_table(small / "feature_snapshot" / USER_EVENTS)
    assert few.equals(whole)
    assert num_rows == len(whole)
    by_user: dict[str, dict[int, int]] = {}
    for user in range(len(stored.user_ids)):
        events = stored.occurred_at[stored.offsets[user] : stored.offsets[user + 1]].tolist()
        by_user[stored.user_ids[user].as_py()] = {at: sum(each <= at for each in events) for at in events}
    told = zip(*(whole[name].to_pylist() for name in ("user_id", "occurred_at", "end_offset")), strict=True)
    assert [(user, round(at.timestamp() * 1e6), count) for user, at, count in told] == [
        (user, at, count) for user, counts in sorted(by_user.items()) for at, count in sorted(counts.items())
    ]
    assert whole["occurred_at"].to_pylist()[0].timestamp() * 1e6 >= START_US
