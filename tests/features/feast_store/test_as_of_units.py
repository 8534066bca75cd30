"""Point-in-time joins by units are those of the whole, to the byte, and units read only what their rows ask for."""

from collections.abc import Sequence
from datetime import timedelta
from io import BytesIO
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from feast.infra.offline_stores.file_source import SavedDatasetFileStorage

from contracts.errors import InputError
from features.feast_store import as_of_rows, as_of_units
from tests.features.feast_store.test_feast_offline import (
    OURS,
    START,
    Repository,
    asking,
    facts,
    item,
    repository,  # noqa: F401
    user,
)

pytestmark = pytest.mark.xdist_group("feast")


def bytes_of(table: pa.Table) -> bytes:
    pq.write_table(table.combine_chunks(), file := BytesIO())
    return file.getvalue()


@pytest.mark.parametrize(("rows_at_once", "by_arrival"), [(9, False), (37, True), (1_000, False)])
def test_units_of_any_size_give_the_bytes_of_the_whole(
    repository: Repository,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    rows_at_once: int,
    by_arrival: bool,
) -> None:
    repository.view("of_user", facts(1), [user], tags={"lag_s": "7", "strict": "true"})
    repository.view("now", facts(1), [user])
    repository.view("of_item", facts(2), [item], ttl=timedelta(seconds=3))
    repository.view("of_pair", facts(3), [user, item], tags={"strict": "true"})
    features = [f"{view}:{name}" for view in ("of_user", "now", "of_item", "of_pair") for name in ("number", "names")]
    entity_df = asking(5, 90)
    entity_df.loc[4, "event_timestamp"] = pd.NaT
    asked: dict[str, Any] = {"features": features, "full_feature_names": True}
    asked |= {"entity_df": entity_df, "filter_by_created_timestamp": by_arrival}
    whole = repository.store(OURS)
    expected = whole.get_historical_features(**asked).to_arrow()
    monkeypatch.setattr(as_of_units, "ROWS_AT_ONCE", rows_at_once)
    job: Any = repository.store(OURS, parts=str(tmp_path / "parts")).get_historical_features(**asked)
    found, parts = job.to_arrow(), job.to_remote_storage()
    assert (found.schema, found.equals(expected)) == (expected.schema, True)
    written = pq.read_table(BytesIO(bytes_of(expected)))  # as the parts were: lists then name their elements otherwise
    assert bytes_of(found) == bytes_of(written)
    assert len(parts) == -(-90 // rows_at_once)
    assert sorted(Path(part).name for part in parts) == sorted(path.name for path in Path(parts[0]).parent.iterdir())
    persisted = job.persist(SavedDatasetFileStorage(str(tmp_path / "saved.parquet")), allow_overwrite=True)
    assert persisted is None
    saved = pq.read_table(tmp_path / "saved.parquet").sort_by("row").to_pylist()
    assert saved == expected.sort_by("row").to_pylist()


def test_a_unit_reads_no_fact_of_other_keys_or_of_later(
    repository: Repository,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    repository.view("of_user", facts(1), [user])
    repository.view("of_pair", facts(3), [user, item])
    read: list[Sequence[Any]] = []
    take = as_of_rows.number_keys

    def note(known: Sequence[pa.ChunkedArray], wanted: Sequence[pa.ChunkedArray]) -> Any:
        read.append([set(column.to_pylist()) for column in known])
        assert len(known[0])
        return take(known, wanted)

    monkeypatch.setattr(as_of_rows, "number_keys", note)
    monkeypatch.setattr(as_of_units, "ROWS_AT_ONCE", 2)
    late = START + timedelta(seconds=100)
    users, times = ["u1", "u2", "u3", "u3"], [late, late, late, late]
    entity_df = pd.DataFrame({"user_id": users, "item_id": [0, 1, 2, 2], "event_timestamp": times})
    store = repository.store(OURS, parts=str(tmp_path / "parts"))
    asked: Any = ["of_user:share", "of_pair:share"]
    store.get_historical_features(entity_df=entity_df, features=asked, full_feature_names=True).to_arrow()
    assert read == [[{"u1", "u2"}], [{"u1", "u2"}, {0, 1}], [{"u3"}], [{"u3"}, {2}]]


def test_no_rows_are_one_part_and_an_engine_without_a_folder_is_refused(
    repository: Repository,  # noqa: F811
    tmp_path: Path,
) -> None:
    repository.view("of_user", facts(14).slice(0, 0), [user])
    whole = repository.store(OURS)
    asked: dict[str, Any] = {"features": ["of_user:number", "of_user:names"]}
    for frame in (asking(14).iloc[:0], asking(14)):
        expected = whole.get_historical_features(entity_df=frame, **asked).to_arrow()
        store = repository.store(OURS, parts=str(tmp_path / "parts"))
        found = store.get_historical_features(entity_df=frame, **asked).to_arrow()
        assert found.equals(expected)
    spark = {"name": "spark", "master": "local[2]", "options": {}}
    with pytest.raises(InputError, match=r"engine is spark, but offline_store\.parts names no folder"):
        repository.store(OURS, engine=spark).get_historical_features(entity_df=asking(14), **asked)
