"""EB-NeRD's files as published become a log that has each event once; other rows are rejected with a reason."""

import random
import shutil
from datetime import UTC
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from contracts.errors import InputError
from tests.clones import real_data
from tests.features.ebnerd_bundle import (
    BEHAVIORS,
    HISTORY,
    ORDINARY,
    START,
    WEEK,
    Row,
    at,
    clicks,
    found,
    impression,
    ingest,
    write_bundle,
)
from tests.features.raw_logs import digest, read


def test_every_candidate_is_a_row_and_history_only_extends_histories(tmp_path: Path) -> None:
    folder = write_bundle(tmp_path / "eb", train_history=(clicks(7, (12, -100), (13, -50)),))
    report = ingest(tmp_path / "data", folder)
    assert (report["rows_read"], report["num_clicks"], report["num_files"]) == (6, 4, 4)
    assert found(tmp_path / "data") == {
        ("7", "12", -100, 1, "history"),
        ("7", "13", -50, 1, "history"),
        ("7", "10", 0, 0, "impression"),
        ("7", "11", 0, 1, "impression"),
        ("8", "10", WEEK, 1, "impression"),
        ("8", "12", WEEK, 0, "impression"),
    }
    rows = [row for row in read(tmp_path / "data" / "interactions") if row["user_id"] == "7"]
    named = {row["item_id"]: (row["impression_id"], row["position"], row["session_id"]) for row in rows}
    assert named == {"10": ("1", 0, "1"), "11": ("1", 1, "1"), "12": (None, None, None), "13": (None, None, None)}


def test_the_context_of_a_request_is_stored(tmp_path: Path) -> None:
    bad = impression(3, 7, 0, [], [])
    folder = write_bundle(tmp_path / "eb", train=(*ORDINARY[:1], bad))
    ingest(tmp_path / "data", folder)
    assert [tuple(row.values()) for row in read(tmp_path / "data" / "contexts")] == [
        ("1", "2", False, None),
        ("2", "2", True, "10"),
    ]


@pytest.mark.parametrize(
    ("seconds", "is_that_click"), [(0, True), (22, True), (-600, True), (600, True), (600.000001, False), (-601, False)]
)
def test_a_history_row_near_a_click_is_that_click_at_the_time_of_the_impression(
    tmp_path: Path, seconds: float, is_that_click: bool
) -> None:
    history = clicks(7, (11, seconds), (10, 5), (12, 5))  # 10 was shown and not clicked: another visit
    report = ingest(tmp_path / "data", write_bundle(tmp_path / "eb", validation_history=(history, clicks(8, (11, 0)))))
    assert report["dropped"].get("click repeated in history", 0) == is_that_click
    times = {row[2] for row in found(tmp_path / "data") if row[:2] == ("7", "11")}
    assert times == ({0} if is_that_click else {0, seconds})
    assert len(found(tmp_path / "data")) == 4 + 3 + (not is_that_click)


def test_history_rows_in_both_files_are_counted_once(tmp_path: Path) -> None:
    same = (12, -1000.0), (13, -900.0)
    folder = write_bundle(
        tmp_path / "eb",
        train_history=(clicks(7, *same, same[0]),),
        validation_history=(clicks(7, *same, (12, -10)), clicks(8, same[0])),
    )
    report = ingest(tmp_path / "data", folder)
    assert report["dropped"] == {"history row repeated": 3}
    assert sum(row[4] == "history" for row in found(tmp_path / "data")) == 4


BAD: dict[str, tuple[Row, int]] = {
    "no impression_id": (impression(None, 7, 0, [10], [10]), 1),
    "no candidates": (impression(3, 7, 0, [], []), 1),
    "no list of clicks": (impression(3, 7, 0, [10], None), 1),
    "click not shown": (impression(3, 7, 0, [10, 11], [12]), 1),
    "no time": (impression(3, 7, 0, [10, 11], [10]) | {"impression_time": None}, 1),
    "candidate repeated": (impression(3, 7, 0, [10, 11, 10, 10], [10]), 4),
}


@pytest.mark.parametrize("reason", BAD)
def test_an_invalid_impression_is_one_rejected_row(tmp_path: Path, reason: str) -> None:
    bad, num_rows = BAD[reason]
    report = ingest(tmp_path / "data", write_bundle(tmp_path / "eb", train=(*ORDINARY[:1], bad)))
    assert report["rows_read"] == 4 + num_rows
    assert report["dropped"] == {reason: 2 if reason == "candidate repeated" else 1}
    assert {(row["file"], row["line"]) for row in read(tmp_path / "data" / "rejected")} == {
        ("train/behaviors.parquet", 2)
    }


def test_a_missing_list_of_candidates_and_lists_of_unequal_length_are_rejected(tmp_path: Path) -> None:
    short = clicks(7, (10, -5), (11, -4)) | {"impression_time_fixed": [at(-5)]}
    none = clicks(8, (10, -5)) | {"article_id_fixed": None}
    timeless = clicks(9, (10, -5)) | {"impression_time_fixed": [None]}
    empty = clicks(9) | {"article_id_fixed": None, "impression_time_fixed": None}  # no rows: nothing to count
    folder = write_bundle(
        tmp_path / "eb", (*ORDINARY[:1], impression(3, 7, 0, None, [])), train_history=(short, none, timeless, empty)
    )
    report = ingest(tmp_path / "data", folder)
    assert report["dropped"] == {"no candidates": 1, "lists of unequal length": 2, "no time": 1}
    raw = [row["raw"] for row in read(tmp_path / "data" / "rejected") if row["reason"] == "lists of unequal length"]
    assert '"article_id_fixed":["10","11"]' in raw[0]


def test_rows_without_user_or_article_are_left_for_validate_to_quarantine(tmp_path: Path) -> None:
    folder = write_bundle(
        tmp_path / "eb",
        (*ORDINARY[:1], impression(3, None, 0, [10, None], [])),
        train_history=(clicks(None, (10, -5), (10, -5)), clicks(7, (None, -5))),
    )
    report = ingest(tmp_path / "data", folder)
    assert (report["dropped"], report["rows_written"]) == ({}, 9)


def test_zoned_and_naive_times_of_any_unit_are_the_same_moment(tmp_path: Path) -> None:
    folder = write_bundle(tmp_path / "eb", train_history=(clicks(7, (12, -100)),))
    ingest(tmp_path / "naive", folder)
    for name, column in (("behaviors", "impression_time"), ("history", "impression_time_fixed")):
        path = folder / "train" / f"{name}.parquet"
        table = pq.read_table(path)
        place = table.column_names.index(column)
        zoned = pa.timestamp("ns", "Europe/Copenhagen")
        kind = zoned if name == "behaviors" else pa.list_(zoned)
        utc = pa.timestamp("us", "UTC") if name == "behaviors" else pa.list_(pa.timestamp("us", "UTC"))
        pq.write_table(table.set_column(place, column, table[column].cast(utc).cast(kind)), path)
    ingest(tmp_path / "zoned", folder)
    assert digest(tmp_path / "naive" / "interactions") == digest(tmp_path / "zoned" / "interactions")


def test_articles_give_the_items_their_facts_and_none_of_their_totals(tmp_path: Path) -> None:
    folder = write_bundle(tmp_path / "eb")
    articles = {
        "article_id": pa.array([10, 11, 99, None], pa.int32()),
        "title": ["Ti", None, "Unseen", "Nameless"],
        "published_time": pa.array([at(-3600), None, at(0), at(0)], pa.timestamp("us")),
        "category": pa.array([118, 142, None, None], pa.int16()),
        "category_str": ["nyheder", None, None, None],
        "subcategory": pa.array([[118, 7], [], None, []], pa.list_(pa.int16())),
        "topics": [["Politik", "Politik"], [], None, []],
        "total_pageviews": [5, 5, 5, 5],
    }
    pq.write_table(pa.table(articles), folder / "articles.parquet")
    report = ingest(tmp_path / "data", folder)
    assert (report["dropped"], report["rows_read"]) == ({}, 4)  # an article is no event
    assert (report["items_dropped"], report["items_read"]) == ({"no article_id": 1}, 4)
    items = {
        row["item_id"]: (row["title"], row["categories"], row["published_at"])
        for row in read(tmp_path / "data" / "items")
    }
    published = START.replace(hour=6, tzinfo=UTC)
    assert items == {
        "10": ("Ti", ["nyheder", "subcategory 118", "subcategory 7", "topic Politik"], published),
        "11": (None, ["142"], None),
        "12": (None, [], None),
        "99": ("Unseen", [], START.replace(tzinfo=UTC)),
    }


def test_row_order_and_nesting_change_no_data_byte(tmp_path: Path) -> None:
    draw = random.Random(3)
    rows = tuple(impression(n, n % 5, n * 50, draw.sample(range(30), 6), [], n % 9) for n in range(40))
    rows = tuple(row | {"article_ids_clicked": [row["article_ids_inview"][2]]} for row in rows)
    history = tuple(clicks(user, *((draw.randrange(30), draw.randrange(2000)) for _ in range(20))) for user in range(5))
    ingest(tmp_path / "one", write_bundle(tmp_path / "eb", rows[:20], rows[20:], history[:3], history))
    other = write_bundle(tmp_path / "zip" / "ebnerd_small", rows[19::-1], rows[:19:-1], history[2::-1], history[::-1])
    (other / "__MACOSX" / "train").mkdir(parents=True)
    shutil.copy(other / "train" / "history.parquet", other / "__MACOSX" / "train" / "history.parquet")
    ingest(tmp_path / "two", tmp_path / "zip")
    for out in ("interactions", "items"):
        assert digest(tmp_path / "one" / out) == digest(tmp_path / "two" / out)


def test_a_folder_that_is_no_bundle_is_refused_with_what_is_missing(tmp_path: Path) -> None:
    folder = write_bundle(tmp_path / "eb")
    with pytest.raises(InputError, match=r"validation/history.parquet is not there"):
        (folder / "validation" / "history.parquet").rename(tmp_path / "kept")
        ingest(tmp_path / "data", folder)
    (tmp_path / "kept").rename(folder / "validation" / "history.parquet")
    pq.write_table(pq.read_table(folder / "train" / "behaviors.parquet").drop("article_ids_inview"), tmp_path / "x")
    good = (folder / "train" / "behaviors.parquet").rename(tmp_path / "good")
    shutil.copy(tmp_path / "x", folder / "train" / "behaviors.parquet")
    with pytest.raises(InputError, match=r"train/behaviors.parquet has no column article_ids_inview"):
        ingest(tmp_path / "data", folder)
    texts = pq.read_table(good)
    texts = texts.set_column(texts.column_names.index("impression_time"), "impression_time", pa.array(["later"]))
    pq.write_table(texts, folder / "train" / "behaviors.parquet")
    with pytest.raises(InputError, match=r"column impression_time holds string, not timestamp"):
        ingest(tmp_path / "data", folder)
    (folder / "train" / "behaviors.parquet").write_text("no parquet")
    with pytest.raises(InputError, match=r"train/behaviors.parquet cannot be read"):
        ingest(tmp_path / "data", folder)
    with pytest.raises(InputError, match=r"2 times \(a/train/behaviors.parquet, b/train/behaviors.parquet\)"):
        write_bundle(tmp_path / "two" / "a")
        write_bundle(tmp_path / "two" / "b")
        ingest(tmp_path / "data", tmp_path / "two")
    with pytest.raises(InputError, match="is not a folder"):
        ingest(tmp_path / "data", tmp_path / "nowhere")


ARTICLE = st.integers(10, 13)
IMPRESSION = st.builds(
    impression,
    st.one_of(st.none(), st.integers(1, 6)),
    st.one_of(st.none(), st.integers(1, 3)),
    st.integers(0, 2000),
    st.one_of(st.none(), st.lists(st.one_of(st.none(), ARTICLE), max_size=4)),
    st.one_of(st.none(), st.lists(ARTICLE, max_size=2)),
)
VISITS = st.builds(
    lambda user, events, cut: clicks(user, *events) | {"impression_time_fixed": [at(s) for _, s in events][cut:]},
    st.integers(1, 3),
    st.lists(st.tuples(ARTICLE, st.integers(0, 3000)), max_size=5),
    st.sampled_from([0, 0, 0, 1]),
)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(IMPRESSION, max_size=5), st.lists(VISITS, max_size=3), st.lists(VISITS, max_size=3))
def test_every_row_of_dirty_lists_is_written_or_rejected(
    tmp_path: Path, behaviors: list[Row], first: list[Row], second: list[Row]
) -> None:
    folder = write_bundle(tmp_path / "eb", ORDINARY[:1], (*ORDINARY[1:], *behaviors), tuple(first), tuple(second))
    report = ingest(tmp_path / "data", folder)
    assert report["rows_read"] == 4 + slow_num_rows(behaviors, [*first, *second])
    events = [row for row in read(tmp_path / "data" / "interactions") if row["role"] == "history"]
    taken = [row for row in read(tmp_path / "data" / "interactions") if row["label"] and row["role"] == "impression"]
    assert len({(row["user_id"], row["item_id"], row["occurred_at"]) for row in events}) == len(events)
    for event in events:
        assert not any(
            click["user_id"] == event["user_id"]
            and click["item_id"] == event["item_id"]
            and abs((click["occurred_at"] - event["occurred_at"]).total_seconds()) <= 600
            for click in taken
        )


def slow_num_rows(behaviors: list[Row], histories: list[Row]) -> int:
    """The rows of an impression are its candidates, of a history its clicks; an invalid one counts as one row."""
    num_rows = 0
    for row in behaviors:
        shown, clicked = row["article_ids_inview"], row["article_ids_clicked"]
        is_whole = row["impression_id"] is not None and shown and clicked is not None and set(clicked) <= set(shown)
        num_rows += len(shown) if is_whole else 1
    for row in histories:
        articles, times = row["article_id_fixed"], row["impression_time_fixed"]
        num_rows += len(articles) if len(articles) == len(times) else 1
    return num_rows


@pytest.mark.slow
def test_the_real_log_is_read_whole(tmp_path: Path) -> None:
    report = ingest(tmp_path, real_data("ebnerd-demo"))
    candidates, visits = 278_139 + 304_915, 258_318 + 240_058
    assert report["rows_read"] == candidates + visits
    assert report["dropped"] == {"history row repeated": 150_430, "click repeated in history": 23_821}
    assert (report["num_users"], report["num_items"], report["num_partitions"]) == (1_935, 6_915, 36)
    assert (report["first_event_at"], report["last_event_at"]) == ("2023-04-27T07:00:05Z", "2023-06-01T06:59:33Z")


def test_the_types_of_the_small_bundles_are_those_of_the_real_one() -> None:
    folder = real_data("ebnerd-demo") / "validation"
    for name, written in (("behaviors", BEHAVIORS), ("history", HISTORY)):
        published = pq.read_schema(folder / f"{name}.parquet")
        assert {field.name: field.type for field in written}.items() <= {f.name: f.type for f in published}.items()
