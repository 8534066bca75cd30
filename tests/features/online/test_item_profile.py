"""What the catalogue of an EB-NeRD bundle says of an article is what Feast answers online."""

from datetime import UTC
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from contracts.schema import QUARANTINE
from features.live.places import state_of
from features.online.store import ItemProfile, OnlineStore
from features.stages import histories, statistics
from features.stages.materialize import run
from tests.features import small_log
from tests.features.ebnerd_bundle import START, at, clicks, ingest, write_bundle
from tests.features.raw_logs import read

pytestmark = pytest.mark.xdist_group("feast")

ARTICLES = {
    "article_id": pa.array([10, 11, 99], pa.int32()),
    "title": ["Æblegrød på Øen", None, "Never shown"],
    "published_time": pa.array([at(-3600), None, at(0)], pa.timestamp("us")),
    "category_str": ["nyheder", "sport", None],
    "subcategory": pa.array([[118, 7], [], None], pa.list_(pa.int16())),
    "topics": [["Politik"], [], None],
}
"""12 is shown too, and not here."""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("root")
    bundle = write_bundle(root / "bundle", train_history=(clicks(7, (12, -100)),))
    pq.write_table(pa.table(ARTICLES), bundle / "articles.parquet")
    data = root / "data" / "ebnerd"
    ingest(data, bundle)
    (data / "validated_interactions").symlink_to(data / "interactions", target_is_directory=True)
    (data / "quarantine").mkdir()
    pq.write_table(QUARANTINE.empty_table(), data / "quarantine" / "quarantine.parquet")
    histories.run(data, small_log.request(), small_log.history())
    statistics.run(data, small_log.statistics())
    run(
        data,
        small_log.history(),
        small_log.statistics(),
        small_log.materialize(num_parity_requests=2),
        small_log.validate(),
        small_log.labels(),
    )
    return data


def test_feast_answers_what_the_items_table_says_of_every_article(data: Path) -> None:
    items = read(data / "items")
    assert [row["item_id"] for row in items] == ["10", "11", "12", "99"]
    store = OnlineStore.open(state_of(data))
    said = [
        ItemProfile(
            row["title"],
            row["categories"],
            row["published_at"] and round(row["published_at"].timestamp() * 1e6),
            row["embedding"],
        )
        for row in items
    ]
    assert store.profiles([row["item_id"] for row in items]) == said


def test_an_article_s_title_categories_and_time_come_back(data: Path) -> None:
    (profile,) = OnlineStore.open(state_of(data)).profiles(["10"])
    published = round(START.replace(hour=6, tzinfo=UTC).timestamp() * 1e6)
    categories = ["nyheder", "subcategory 118", "subcategory 7", "topic Politik"]
    assert profile == ItemProfile("Æblegrød på Øen", categories, published, None)


def test_an_article_without_metadata_is_known_and_says_nothing(data: Path) -> None:
    """Nulls, which is not what an article that the log never had is answered with."""
    assert OnlineStore.open(state_of(data)).profiles(["12", "13"]) == [ItemProfile(None, [], None, None), None]
