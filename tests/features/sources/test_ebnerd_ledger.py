"""Faulty rows of an EB-NeRD bundle are quarantined with their reason, and the ledger has every row once."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from features.stages import histories, validate
from features.tables.histories import UserHistories
from tests.features.ebnerd_bundle import ORDINARY, WEEK, at, clicks, impression, ingest, write_bundle
from tests.features.raw_logs import digest, expectations, limits, read
from tests.features.small_log import history, request

TAKEN = 4
"""Rows of ORDINARY, all of them in a request."""
IN_A_REQUEST, IN_A_HISTORY = ("histories", "in a request"), ("histories", "in a history only")


def ledger(root: Path, folder: Path) -> dict[tuple[str, str], int]:
    """A bundle through ingest, validate and histories: rows by (stage, what), together all rows read."""
    data = root / "data" / "ebnerd"
    report = ingest(data, folder)
    validate.run(data, limits(), expectations())
    histories.run(data, request(), history(lag_s=60))
    lines = {(each["stage"], each["what"]): each["rows"] for each in read(data / "ledger")}
    assert sum(lines.values()) == report["rows_read"]
    return lines


def test_invalid_impressions_are_rejected_and_counted(tmp_path: Path) -> None:
    bad = (
        impression(3, 7, 0, [10, 11], [12]),
        impression(4, 7, 0, [], []),
        impression(5, 7, 0, None, []),
        impression(6, 7, 0, [10], None),
        impression(None, 7, 0, [10, 11], [10]),
        impression(7, 7, 0, [10, 11, 10, 10], [10]),
        impression(8, None, 0, [10, 11], [10]),
        impression(9, 7, 0, [10, None], [10]),
        impression(10, 7, 0, [12, 13], [12]),
        impression(10, 9, 0, [12, 13], [12]),
    )
    assert ledger(tmp_path, write_bundle(tmp_path / "eb", (*ORDINARY[:1], *bad))) == {
        ("ingest", "click not shown"): 1,
        ("ingest", "no candidates"): 2,
        ("ingest", "no list of clicks"): 1,
        ("ingest", "no impression_id"): 1,
        ("ingest", "candidate repeated"): 2,
        ("validate", "user_id missing"): 2,
        ("validate", "item_id missing"): 1,
        ("validate", "impression of several users"): 4,
        IN_A_REQUEST: TAKEN + 2 + 1,  # the candidates that are left of two impressions
    }


def test_invalid_and_repeated_histories_are_rejected_and_counted(tmp_path: Path) -> None:
    unequal = clicks(7, (10, -5), (11, -4)) | {"impression_time_fixed": [at(-5)]}
    timeless = clicks(8, (10, -5)) | {"impression_time_fixed": [None]}
    folder = write_bundle(
        tmp_path / "eb",
        train_history=(unequal, timeless, clicks(7, (12, -100), (11, 22)), clicks(None, (10, -9))),
        validation_history=(clicks(7, (12, -100)),),
    )
    assert ledger(tmp_path, folder) == {
        ("ingest", "lists of unequal length"): 1,
        ("ingest", "no time"): 1,
        ("ingest", "click repeated in history"): 1,
        ("ingest", "history row repeated"): 1,
        ("validate", "user_id missing"): 1,
        IN_A_REQUEST: TAKEN,
        IN_A_HISTORY: 1,
    }


def test_a_user_only_in_validation_has_a_history_and_requests(tmp_path: Path) -> None:
    folder = write_bundle(tmp_path / "eb", validation_history=(clicks(8, (12, -100), (13, -50)),))
    assert ledger(tmp_path, folder) == {IN_A_REQUEST: TAKEN, IN_A_HISTORY: 2}
    stored = UserHistories.open(tmp_path / "data/ebnerd/user_histories")
    asked = pq.read_table(tmp_path / "data/ebnerd/impressions/impressions.parquet").to_pylist()
    user = stored.user_ids.to_pylist().index("8")
    assert {row["end_offset"] for row in asked if row["user_index"] == user} == {2}


def test_an_article_without_metadata_is_an_item_and_one_without_an_id_is_not(tmp_path: Path) -> None:
    folder = write_bundle(tmp_path / "eb")
    articles = {"article_id": pa.array([10, None], pa.int32()), "category_str": ["news", "lost"]}
    pq.write_table(pa.table(articles | {"title": ["Ten", None]}), folder / "articles.parquet")
    assert ledger(tmp_path, folder) == {IN_A_REQUEST: TAKEN}
    vocabulary = pq.read_table(tmp_path / "data/ebnerd/user_histories/vocabulary.parquet").to_pylist()
    assert {row["item_id"]: row["categories"] for row in vocabulary} == {"10": ["news"], "11": [], "12": []}


def test_naive_and_zoned_times_give_the_same_ledger_and_requests(tmp_path: Path) -> None:
    folder = write_bundle(tmp_path / "eb", train_history=(clicks(7, (12, -100)), clicks(8, (12, WEEK - 100))))
    naive = ledger(tmp_path / "naive", folder)
    path = folder / "validation" / "behaviors.parquet"
    table = pq.read_table(path)
    zoned = table["impression_time"].cast(pa.timestamp("us", "UTC")).cast(pa.timestamp("ms", "Asia/Tokyo"))
    pq.write_table(table.set_column(table.column_names.index("impression_time"), "impression_time", zoned), path)
    assert ledger(tmp_path / "zoned", folder) == naive == {IN_A_REQUEST: TAKEN, IN_A_HISTORY: 2}
    made = [digest(tmp_path / name / "data/ebnerd/impressions") for name in ("naive", "zoned")]
    assert made[0] == made[1]
