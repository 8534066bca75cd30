"""Our offline store equals Feast's on random tables, and a slow implementation of the tags."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from feast import Entity, FeatureService, FeatureStore, FeatureView, Field, FileSource, RequestSource, ValueType
from feast.infra.offline_stores.file_source import SavedDatasetFileStorage
from feast.on_demand_feature_view import on_demand_feature_view
from feast.repo_config import RepoConfig
from feast.types import Array, Float64, Int64, String

from contracts.errors import InputError
from features.tables.duck import duckdb, ibis

pytestmark = pytest.mark.xdist_group("feast")
START = pd.Timestamp("2024-01-01", tz="UTC")
OURS = "features.feast_store.offline.LeitmotifOfflineStore"
FOREVER = timedelta(0)

user = Entity(name="user", join_keys=["user_id"], value_type=ValueType.STRING)
item = Entity(name="item", join_keys=["item_id"], value_type=ValueType.INT64)


def facts(seed: int, num_rows: int = 400, **more: Callable[[np.random.Generator], Any]) -> pa.Table:
    """Few users and items at few whole seconds: keys and times repeat; values are null now and then."""
    random = np.random.default_rng(seed)
    users = [None if number == 7 else f"u{number}" for number in random.integers(0, 8, num_rows)]
    at = START + pd.to_timedelta(random.integers(0, 60, num_rows), unit="s")
    return pa.table(
        {
            "user_id": pa.array(users, pa.string()),
            "item_id": random.integers(0, 4, num_rows),
            "ts": pa.array(at).cast(pa.timestamp("us", "UTC")),
            # a tie is decided by `created`, which is unique, sometimes later than any request
            "created": pa.array(at + pd.to_timedelta(random.permutation(num_rows) / 10 - 5, unit="s")).cast(
                pa.timestamp("us", "UTC"), safe=False
            ),
            "number": pa.array([None if random.random() < 0.2 else int(n) for n in random.permutation(num_rows)]),
            "share": random.random(num_rows),
            "names": pa.array(
                [None if random.random() < 0.1 else [f"n{n}"] * random.integers(0, 3) for n in range(num_rows)],
                pa.list_(pa.string()),
            ),
        }
    )


def asking(seed: int, num_rows: int = 300) -> pd.DataFrame:
    """Rows that ask, some of keys that no table has, some before or after all facts; `row` is the order."""
    random = np.random.default_rng(seed)
    seconds = random.integers(-5, 70, num_rows)
    return pd.DataFrame(
        {
            "row": np.arange(num_rows),
            "user_id": [None if n == 9 else f"u{n}" for n in random.integers(0, 10, num_rows)],
            "item_id": random.integers(0, 6, num_rows),
            "event_timestamp": START + pd.to_timedelta(seconds, unit="s"),
        }
    )


@dataclass
class Repository:
    """One set of tables and views, read through either store."""

    folder: Path
    made: list[Any] = field(default_factory=lambda: [user, item])

    def view(self, name: str, table: pa.Table, entities: list[Entity], **more: Any) -> FeatureView:
        path = self.folder / f"{name}.parquet"
        pq.write_table(table, path)
        created = "" if more.pop("no_created", False) else "created"
        mapping = more.pop("mapping", {})
        source = FileSource(
            name=name, path=str(path), timestamp_field="ts", created_timestamp_column=created, field_mapping=mapping
        )
        given = {
            "ttl": FOREVER,
            "schema": [
                *(Field(name=each.join_key, dtype=String if each is user else Int64) for each in entities),
                Field(name="number", dtype=Int64),
                Field(name="share", dtype=Float64),
                Field(name="names", dtype=Array(String)),
            ],
        }
        made = FeatureView(name=name, entities=entities, source=source, **given | more)
        self.made.append(made)
        return made

    def store(self, kind: str, **offline: Any) -> FeatureStore:
        config = RepoConfig(
            project="tried",
            provider="local",
            registry={"path": str(self.folder / f"{kind}.db"), "cache_ttl_seconds": 0},
            online_store={"type": "sqlite", "path": str(self.folder / f"{kind}-online.db")},
            offline_store={"type": kind} | offline,
            entity_key_serialization_version=3,
        )
        store = FeatureStore(config=config)
        store.apply(self.made)
        return store

    def ask(self, kind: str, entity_df: pd.DataFrame, features: Any, **more: Any) -> list[dict[str, Any]]:
        """The result's rows in the order of `row`."""
        given = {"full_feature_names": True} | more
        job = self.store(kind).get_historical_features(entity_df=entity_df, features=features, **given)
        return job.to_arrow().sort_by("row").to_pylist()

    def same(self, entity_df: pd.DataFrame, features: Any, **more: Any) -> list[dict[str, Any]]:
        """Ours, once it is known to equal Feast's own."""
        ours, stock = (self.ask(kind, entity_df.copy(), features, **more) for kind in (OURS, "duckdb"))
        assert [list(row) for row in ours] == [list(row) for row in stock]
        assert ours == stock
        return ours


@pytest.fixture
def repository(tmp_path: Path) -> Iterator[Repository]:
    with duckdb(tmp_path / "spill") as connection:
        ibis.set_backend(connection)
        try:
            yield Repository(tmp_path)
        finally:
            ibis.options.default_backend = None


@pytest.mark.parametrize("seed", range(4))
def test_views_without_tags_answer_as_feast_s_own_store(repository: Repository, seed: int) -> None:
    """Ties, nulls, repeated rows, missing keys, several keys, a TTL: the answer is the same, row by row."""
    repository.view("of_user", facts(seed), [user])
    repository.view("of_item", facts(seed + 10), [item], ttl=timedelta(seconds=3))
    repository.view("of_pair", facts(seed + 20), [user, item])
    features = [f"{view}:{name}" for view in ("of_user", "of_item", "of_pair") for name in ("number", "share", "names")]
    rows = repository.same(asking(seed), features)
    assert len(rows) == 300
    for name in ("of_user__number", "of_item__share", "of_pair__names"):
        assert 0 < sum(row[name] is None for row in rows) < 300


@pytest.mark.parametrize("seed", range(3))
def test_facts_created_later_are_unknown_if_filtered_by_created(repository: Repository, seed: int) -> None:
    repository.view("of_user", facts(seed), [user], ttl=timedelta(seconds=20))
    repository.view("of_pair", facts(seed + 20), [user, item])
    features = ["of_user:number", "of_user:share", "of_pair:share"]
    known = repository.same(asking(seed), features, filter_by_created_timestamp=True)
    assert known != repository.same(asking(seed), features)


def test_facts_without_created_count_only_if_not_filtered_by_created(repository: Repository) -> None:
    table = facts(3)
    without = pa.array([None if n % 3 else at for n, at in enumerate(table["created"].to_pylist())], TIMESTAMP)
    table = table.set_column(table.column_names.index("created"), "created", without)
    drop = pd.DataFrame(table.to_pandas()).drop_duplicates(["user_id", "ts"])
    repository.view("of_user", pa.Table.from_pandas(drop, table.schema, preserve_index=False), [user])
    repository.same(asking(3), ["of_user:number"])
    repository.same(asking(3), ["of_user:number"], filter_by_created_timestamp=True)


TIMESTAMP = pa.timestamp("us", "UTC")


def test_short_names_services_and_mapped_columns_are_feast_s(repository: Repository) -> None:
    mapped = facts(5).rename_columns({"share": "part"})
    view = repository.view("of_user", mapped, [user], mapping={"part": "share"})
    other = repository.view("of_item", facts(6), [item])
    service = FeatureService(name="both", features=[view[["share"]], other[["number", "names"]]])
    repository.made.append(service)
    rows = repository.same(asking(5), service, full_feature_names=False)
    assert list(rows[0]) == ["row", "user_id", "item_id", "event_timestamp", "share", "number", "names"]


def test_views_under_another_name_are_joined_by_the_columns_named(repository: Repository) -> None:
    view = repository.view("of_user", facts(7), [user])
    service = FeatureService(
        name="two",
        features=[view.with_name("of_self"), view.with_name("of_friend").with_join_key_map({"user_id": "friend_id"})],
    )
    repository.made.append(service)
    entity_df = asking(7).assign(friend_id=lambda df: df["user_id"].iloc[::-1].to_numpy())
    rows = repository.same(entity_df, service)
    assert any(row["of_self__number"] != row["of_friend__number"] for row in rows)


def test_a_map_of_one_key_leaves_the_others_as_they_are(repository: Repository) -> None:
    """Feast's own store would join by the mapped key alone."""
    view = repository.view("of_pair", facts(8), [user, item])
    service = FeatureService(name="one", features=[view.with_join_key_map({"user_id": "friend_id"})[["share"]]])
    repository.made.append(service)
    renamed = asking(8).rename(columns={"user_id": "friend_id"})
    found = [row["of_pair__share"] for row in repository.ask(OURS, renamed, service)]
    assert found == [row["of_pair__share"] for row in repository.same(asking(8), ["of_pair:share"])]


@pytest.mark.filterwarnings("ignore:On demand feature view:RuntimeWarning")
def test_features_on_demand_are_computed_of_the_joined_rows(repository: Repository) -> None:
    view = repository.view("of_user", facts(9).set_column(4, "number", pa.array(range(400))), [user])
    request = RequestSource(name="asked", schema=[Field(name="row", dtype=Int64)])

    @on_demand_feature_view(sources=[view, request], schema=[Field(name="doubled", dtype=Float64)], mode="pandas")
    def made(inputs: pd.DataFrame) -> pd.DataFrame:
        return pd.DataFrame({"doubled": inputs["number"] * 2.0 + inputs["row"]})

    repository.made.append(made)
    entity_df = asking(9)
    entity_df = entity_df[entity_df["user_id"].isin([f"u{n}" for n in range(7)])]
    entity_df = entity_df[entity_df["event_timestamp"] > START + timedelta(seconds=40)]
    rows = repository.same(entity_df, ["made:doubled", "of_user:share"], full_feature_names=False)
    assert all(row["doubled"] == 2 * row["number"] + row["row"] for row in rows)


def slowly(table: pa.Table, entity_df: pd.DataFrame, back: timedelta, strict: bool) -> list[tuple[Any, Any]]:
    """(number, names) of each user's newest fact, read one row at a time."""
    by_user: dict[str, list[dict[str, Any]]] = {}
    for fact in table.to_pylist():
        by_user.setdefault(fact["user_id"], []).append(fact)
    found = []
    for asked in entity_df.to_dict("records"):
        cut = asked["event_timestamp"] - back
        known = [
            fact
            for fact in by_user.get(asked["user_id"], [])
            if asked["user_id"] is not None and (fact["ts"] < cut if strict else fact["ts"] <= cut)
        ]
        newest = max(known, key=lambda fact: (fact["ts"], fact["created"]), default=None)
        found.append((newest and newest["number"], newest and newest["names"]))
    return found


@pytest.mark.parametrize(("lag_s", "strict"), [("0", True), ("2.5", False), ("7", True), ("0.000001", True)])
def test_tags_say_how_far_back_and_that_the_moment_itself_is_not_known(
    repository: Repository, lag_s: str, strict: bool
) -> None:
    table, entity_df = facts(11), asking(11)
    repository.view("now", table, [user])
    repository.view("back", table, [user], tags={"lag_s": lag_s, "strict": "true" if strict else "false"})
    rows = repository.ask(OURS, entity_df, ["back:number", "back:names", "now:number", "now:names"])
    for name, back, how in (("now", timedelta(0), False), ("back", timedelta(seconds=float(lag_s)), strict)):
        found = [(row[f"{name}__number"], row[f"{name}__names"]) for row in rows]
        assert found == slowly(table, entity_df, back, how)


def test_a_lagged_view_is_the_view_asked_earlier_in_every_respect(repository: Repository) -> None:
    """TTL and creation are judged at the earlier time too."""
    table, entity_df = facts(12), asking(12)
    some = {"ttl": timedelta(seconds=4)}
    repository.view("now", table, [user], **some)
    repository.view("back", table, [user], tags={"lag_s": "6"}, **some)
    earlier = entity_df.assign(event_timestamp=entity_df["event_timestamp"] - timedelta(seconds=6))
    for more in ({}, {"filter_by_created_timestamp": True}):
        back = repository.ask(OURS, entity_df, ["back:number"], **more)
        now = repository.same(earlier, ["now:number"], **more)
        assert [row["back__number"] for row in back] == [row["now__number"] for row in now]


def test_every_row_comes_back_once_in_its_place_with_its_own_columns(repository: Repository) -> None:
    """Rows in any order, equal rows, any index, any further column; the caller's frame is left alone."""
    repository.view("of_user", facts(13), [user])
    entity_df = pd.concat([asking(13), asking(13)]).sample(frac=1, random_state=1)
    entity_df["free"] = [{"a": n} if n % 2 else None for n in range(len(entity_df))]
    before = entity_df.copy()
    alone = repository.ask(OURS, asking(13), ["of_user:share"], full_feature_names=False)
    got = repository.store(OURS).get_historical_features(entity_df=entity_df, features=["of_user:share"]).to_df()
    pd.testing.assert_frame_equal(entity_df, before)
    assert got["row"].tolist() == entity_df["row"].tolist()
    assert got["user_id"].tolist() == entity_df["user_id"].tolist()
    shares = pd.Series([row["share"] for row in alone])
    pd.testing.assert_series_equal(got["share"], shares[got["row"]].reset_index(drop=True), check_names=False)


def test_no_rows_and_no_facts_are_answers_too(repository: Repository) -> None:
    repository.view("of_user", facts(14).slice(0, 0), [user])
    repository.view("of_pair", facts(14), [user, item])
    features = ["of_user:number", "of_user:names", "of_pair:names"]
    rows = repository.ask(OURS, asking(14), features)
    assert {row["of_user__number"] for row in rows} == {row["of_user__names"] for row in rows} == {None}
    empty = repository.store(OURS).get_historical_features(
        entity_df=asking(14).iloc[:0], features=features, full_feature_names=True
    )
    assert (empty.to_arrow().num_rows, empty.to_arrow().num_columns) == (0, 7)


def test_times_written_as_text_or_without_a_zone_are_utc(repository: Repository) -> None:
    repository.view("of_user", facts(15), [user])
    entity_df = asking(15)
    found = repository.same(entity_df, ["of_user:number"])
    naive = entity_df.assign(event_timestamp=entity_df["event_timestamp"].dt.tz_localize(None))
    elsewhere = entity_df.assign(event_timestamp=entity_df["event_timestamp"].dt.tz_convert("Asia/Tokyo"))
    for other in (naive, elsewhere):
        assert repository.ask(OURS, other, ["of_user:number"]) == found


def test_a_result_can_be_persisted_as_a_dataset(repository: Repository) -> None:
    repository.view("of_user", facts(16), [user])
    store = repository.store(OURS)
    job = store.get_historical_features(entity_df=asking(16), features=["of_user:number"])
    path = repository.folder / "saved.parquet"
    job.persist(SavedDatasetFileStorage(path=str(path)))
    assert pq.read_table(path).sort_by("row").to_pylist() == job.to_arrow().to_pylist()


def test_unsupported_requests_are_refused_in_one_sentence(repository: Repository) -> None:
    repository.view("of_user", facts(17), [user])
    repository.view("ahead", facts(17), [user], tags={"lag_s": "-1"})
    repository.view("arrays", facts(17), [user], tags={"sequence": "true"})
    store = repository.store(OURS)
    entity_df = asking(17)
    for given, said in (
        ({"entity_df": "SELECT 1"}, "pandas"),
        ({"entity_df": None, "start_date": START.to_pydatetime(), "end_date": START.to_pydatetime()}, "pandas"),
        ({"entity_df": entity_df.drop(columns="user_id")}, "no column user_id"),
        ({"entity_df": entity_df.assign(number=1)}, "full_feature_names"),
        ({"entity_df": entity_df, "features": ["ahead:number"]}, "lag_s"),
    ):
        with pytest.raises(InputError, match=said):
            store.get_historical_features(**{"features": ["of_user:number"]} | given)
    with pytest.raises(InputError, match="histories"):
        store.get_historical_features(entity_df=entity_df, features=["arrays:names"]).to_arrow()
