"""Bad rows go to quarantine with a reason, repeated rows are dropped, and a log that is mostly bad is refused."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contracts.errors import CheckFailed, InputError
from features.quality.expectations import Judgement
from features.stages.validate import run
from features.terms.params import ValidateParams
from features.terms.rules import REPEATED, rules
from orchestration.checks import CHECKS
from orchestration.checks import judge as judge_report
from tests.features.judged_rows import flaws_of
from tests.features.raw_logs import digest, expectations, ingest_table, limits, read, write_interactions

START = datetime(2024, 1, 1, tzinfo=UTC)
FAILED = "text-danger"
"""On a page of the Data Docs, where an expectation failed."""


def event(number: int, **changes: Any) -> dict[str, Any]:
    """A valid row with these changes."""
    usual = {
        "event_id": f"e{number}",
        "user_id": f"u{number % 3}",
        "item_id": f"i{number % 5}",
        "occurred_at": START + timedelta(seconds=number),
        "label": 1.0,
    }
    return usual | changes


def judge(tmp_path: Path, rows: list[dict[str, Any]], validate: ValidateParams | None = None) -> dict[str, Any]:
    """Validate one partition; the ledger must add up."""
    write_interactions(tmp_path / "data" / "log", rows)
    report = dict(run(tmp_path / "data" / "log", validate or limits(), expectations()))
    assert report["rows_in"] == len(rows)
    assert report["rows_in"] == report["rows_valid"] + report["rows_quarantined"] + report["rows_duplicated"]
    assert report["rows_quarantined"] == sum(report["quarantined_by_reason"].values())
    return report


BAD = {
    "user_id missing": {"user_id": None},
    "item_id missing": {"item_id": None},
    "occurred_at missing": {"occurred_at": None},
    "label missing": {"label": None},
    "user_id not of 1 to 20 characters": {"user_id": "u" * 21},
    "item_id not of 1 to 20 characters": {"item_id": ""},
    "user_id has control characters": {"user_id": "u\x00\n"},
    "item_id has control characters": {"item_id": "i\x85"},
    "occurred_at outside validate.earliest to latest": {"occurred_at": datetime(1970, 1, 20, tzinfo=UTC)},
    "label outside 0 to 1": {"label": 1.5},
    "position below 0": {"position": -1},
    "role unknown": {"role": "shown"},
}


def test_every_bad_row_is_quarantined_with_its_reason(tmp_path: Path) -> None:
    shared = [event(90 + n, user_id=f"u{n}", impression_id="r") for n in range(2)]
    rows = [event(n) for n in range(10)] + [event(20 + n, **bad) for n, bad in enumerate(BAD.values())] + shared
    report = judge(tmp_path, rows)
    assert report["quarantined_by_reason"] == dict.fromkeys(BAD, 1) | {"impression of several users": 2}
    assert report["num_expectations"] >= 10
    held = {row["event_id"]: row["reason"] for row in read(tmp_path / "data" / "log" / "quarantine")}
    assert held == {f"e{20 + n}": reason for n, reason in enumerate(BAD)} | dict.fromkeys(
        ["e90", "e91"], "impression of several users"
    )
    assert len(read(tmp_path / "data" / "log" / "validated_interactions")) == 10
    places = {row["event_id"]: (row["file"], row["line"]) for row in read(tmp_path / "data" / "log" / "quarantine")}
    assert places == {f"e{20 + n}": ("log.csv", 12 + n) for n in range(len(BAD))} | {
        f"e{90 + n}": ("log.csv", 12 + len(BAD) + n) for n in range(2)
    }


def test_quarantine_has_the_file_and_line_of_each_row_whatever_the_order_and_the_partition(tmp_path: Path) -> None:
    lines = [
        "a,x,2024-01-03,1",
        ",x,2024-01-01,1",
        "b,y,2024-01-02,0",
        "b,,2024-01-02,1",
        ",x,2024-01-01,1",
        "c,z,2024-01-01,",
    ]
    (tmp_path / "log.csv").write_text("\n".join(["user,item,at,click", *lines, ""]))
    data = tmp_path / "data" / "table"
    ingest_table(data, tmp_path / "log.csv")
    run(data, limits(), expectations())
    held = sorted((row["file"], row["line"], row["reason"]) for row in read(data / "quarantine"))
    assert held == [
        ("log.csv", 3, "user_id missing"),
        ("log.csv", 5, "item_id missing"),
        ("log.csv", 6, "user_id missing"),
        ("log.csv", 7, "label missing"),
    ]


def test_a_log_of_only_clicks_is_refused_with_what_to_do(tmp_path: Path) -> None:
    rows = [event(n) for n in range(5)]
    write_interactions(tmp_path / "data" / "log", rows)
    with pytest.raises(InputError) as caught:
        run(tmp_path / "data" / "log", limits(min_unclicked=1), expectations())
    assert "0 rows that were shown and not clicked in 5 valid rows; validate.min_unclicked is 1" in str(caught.value)
    assert 'make set ARGS="source.negatives=4"' in str(caught.value)
    assert judge(tmp_path / "let", rows, limits(min_unclicked=0))["num_unclicked"] == 0
    assert judge(tmp_path / "one", [*rows, event(9, label=0.0)], limits(min_unclicked=1))["num_unclicked"] == 1


def test_ids_of_the_longest_allowed_length_and_emoji_are_valid(tmp_path: Path) -> None:
    rows = [event(0, user_id="👤" * 20), event(1, item_id="é 🍕,\"'|")]
    assert judge(tmp_path, rows)["rows_valid"] == 2


def test_of_a_repeated_event_the_first_sound_row_is_kept(tmp_path: Path) -> None:
    bad_first = [event(5, event_id="twice", label=None), event(6, event_id="twice"), event(7, event_id="twice")]
    report = judge(tmp_path, [event(0), event(0), event(0), *bad_first])
    assert (report["rows_valid"], report["rows_quarantined"], report["rows_duplicated"]) == (2, 1, 3)
    kept = read(tmp_path / "data" / "log" / "validated_interactions")
    assert [(row["event_id"], row["occurred_at"]) for row in kept] == [
        ("e0", START),
        ("twice", START + timedelta(seconds=6)),
    ]


def test_a_row_with_another_event_s_event_id_is_dropped_and_reported(tmp_path: Path) -> None:
    others = [{"item_id": "x"}, {"user_id": "x", "impression_id": "q"}, {"label": 0.0}, {"position": 4}]
    told = [event(number, impression_id=f"r{number}", position=1) for number in range(len(others))]
    report = judge(tmp_path, [*told, *told, *(row | other for row, other in zip(told, others, strict=True))])
    assert (report["rows_valid"], report["rows_duplicated"], report["rows_duplicated_differing"]) == (4, 8, 4)
    assert "4 of these say something else than the row whose event_id they have" in report["summary"]


def test_an_event_repeated_in_another_partition_is_a_duplicate(tmp_path: Path) -> None:
    data = tmp_path / "data" / "log"
    write_interactions(data, [event(0), event(1)], "2024-01-01")
    write_interactions(data, [event(1, occurred_at=START + timedelta(days=1)), event(2)], "2024-01-02")
    report = run(data, limits(), expectations())
    assert report["rows_duplicated"] == 1
    assert report["partitions"] == {"2024-01-01": 2, "2024-01-02": 1}
    assert sorted(file.name for file in (data / "validated_interactions").iterdir()) == [
        "2024-01-01.parquet",
        "2024-01-02.parquet",
    ]


def test_the_same_log_gives_the_same_bytes_and_readable_pages(tmp_path: Path) -> None:
    hashes = []
    for name in ("a", "b"):
        judge(tmp_path / name, [event(n) for n in range(9)] + [event(9, label=None)])
        hashes.append(digest(tmp_path / name / "data" / "log"))
    assert hashes[0] == hashes[1]
    docs = tmp_path / "a" / ".state" / "log" / "data_docs"
    assert (docs / "index.html").is_file()
    pages = [path.read_text() for path in sorted(docs.glob("validations/**/*.html"))]
    assert len(pages) == 4  # the partition's rows by the rules and by the suite, the partitions, and the log
    assert "label missing" in (docs / "expectations" / "interactions.html").read_text()
    assert "rows held back" in (docs / "expectations" / "log.html").read_text()
    assert "whole log 1 of 10 rows held back" in (docs / "index.html").read_text()


def test_pages_and_dagster_show_quarantined_rows_beside_successful_expectations(tmp_path: Path) -> None:
    rows = [event(n) for n in range(7)] + [event(8, label=None), event(9, item_id=None), event(3)]
    report = judge(tmp_path, rows, limits(max_quarantined_share=0.5))
    docs = tmp_path / ".state" / "log" / "data_docs"
    pages = [docs / "index.html", *docs.glob("validations/**/*.html")]
    assert len(pages) > 1
    for page in pages:
        text = page.read_text(encoding="utf-8")
        assert text.count('<p role="note"') == (page.name != "index.html")
        assert "of 10 rows 2 are held back in quarantine (item_id missing: 1; label missing: 1)" in text
        assert "and 1 repeat another" in text
    (check,) = [each for each in CHECKS if each.name == "rows_add_up" and each.out == "validated_interactions"]
    verdict = judge_report(check, report)
    assert verdict.passed
    assert "7 valid + 2 quarantined + 1 duplicated" in verdict.description
    assert "held back: item_id missing: 1; label missing: 1" in verdict.description


def test_limits_of_time_without_a_zone_are_utc(tmp_path: Path) -> None:
    report = judge(
        tmp_path,
        [event(n) for n in range(4)],
        limits(earliest="2024-01-01T00:00:01", latest="2024-01-01T03:00:02+03:00"),
    )
    assert report["quarantined_by_reason"] == {"occurred_at outside validate.earliest to latest": 2}


def test_too_much_bad_data_is_blocked_and_kept_for_inspection(tmp_path: Path) -> None:
    data = tmp_path / "data" / "log"
    write_interactions(data, [event(n, label=None if n < 3 else 1.0) for n in range(10)])
    with pytest.raises(CheckFailed) as caught:
        run(data, limits(max_quarantined_share=0.2), expectations())
    assert "3 of 10 rows are quarantined, 30.0% (label missing: 3); validate.max_quarantined_share is 20.0%" in str(
        caught.value
    )
    assert 'make set ARGS="validate.max_quarantined_share=0.3"' in str(caught.value)
    assert not (data / "validated_interactions").exists()
    assert len(read(data / ".refused" / "quarantine")) == 3
    assert (tmp_path / "attempts" / "validate" / "data_docs" / "index.html").is_file()


def test_requests_counted_for_each_user_from_1_are_refused_with_what_to_do(tmp_path: Path) -> None:
    rows = [event(number, impression_id=f"{number // 3}") for number in range(30)]  # each of three users
    with pytest.raises(CheckFailed, match=r"impression of several users: 30.*write it as <user>-<number>, or leave it"):
        judge(tmp_path, rows, limits(max_quarantined_share=0.05))


def test_a_refused_attempt_leaves_the_last_good_pages(tmp_path: Path) -> None:
    judge(tmp_path, [event(n) for n in range(9)])
    docs = tmp_path / ".state" / "log" / "data_docs"
    before = digest(docs)
    write_interactions(tmp_path / "data" / "log", [event(0, label=None), event(1)])
    with pytest.raises(CheckFailed):
        run(tmp_path / "data" / "log", limits(max_quarantined_share=0.2), expectations())
    assert digest(docs) == before
    refused = tmp_path / "attempts" / "validate" / "data_docs"
    assert (refused / "index.html").is_file()
    assert digest(refused) != before


def test_newer_pages_replace_the_last_ones_by_rename(tmp_path: Path) -> None:
    docs = tmp_path / ".state" / "log" / "data_docs"
    (docs.parent / ".data_docs.old").mkdir(parents=True)
    (docs.parent / ".data_docs.old" / "index.html").write_text("the last, by a swap that was killed halfway")
    (docs.parent / ".data_docs.new").mkdir()
    for _ in range(2):
        judge(tmp_path, [event(n) for n in range(4)])
    assert len(list(docs.glob("validations/**/*.html"))) == 4
    assert [path.name for path in docs.parent.iterdir()] == ["data_docs"]


def by_batches(tmp_path: Path, batches: list[list[dict[str, Any]]], **changes: Any) -> dict[str, Any]:
    """Validate each partition as a batch of its own, as in a log of more than BATCH_ROWS rows."""
    for number, rows in enumerate(batches, 1):
        write_interactions(tmp_path / "data" / "log", rows, f"2024-01-{number:02}")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("features.quality.split.BATCH_ROWS", 1)
        return dict(run(tmp_path / "data" / "log", limits(**changes), expectations()))


def test_a_good_log_is_not_judged_by_its_last_batch(tmp_path: Path) -> None:
    """What the log has, its last batch has not: alone it would break each of these limits."""
    last = [event(90, user_id="u0", item_id="i0", label=0.0), event(91, label=None), event(3)]  # sound, bad, repeated
    least = {"min_clicks": 5, "min_users": 3, "min_items": 5}
    most = {"max_quarantined_share": 0.1, "max_duplicated_share": 0.1}
    rows = [[event(n) for n in range(10)], [event(10 + n) for n in range(10)], last]
    report = by_batches(tmp_path, rows, **least, **most)
    assert (report["rows_quarantined"], report["rows_duplicated"]) == (1, 1)
    assert report["failed_expectations"] == []
    assert report["summary"].startswith(f"{report['num_expectations']} of {report['num_expectations']} expectations")
    pages = list((tmp_path / ".state" / "log" / "data_docs").glob("validations/**/*.html"))
    assert len(pages) == 8  # of each of 3 batches the rules and a steward's of rows; of partitions; of the whole log
    assert not any(FAILED in page.read_text() for page in pages)


def test_expectations_fail_where_the_log_as_a_whole_does(tmp_path: Path) -> None:
    """Batches within their limits prove nothing: three users in each of two batches may be the same three users."""
    rows = [[event(10 * batch + n) for n in range(9)] for batch in range(2)]
    with pytest.raises(InputError, match="3 users in 18 valid rows"):
        by_batches(tmp_path, rows, min_users=4)
    refused = tmp_path / "attempts" / "validate" / "data_docs"
    assert any(FAILED in page.read_text() for page in refused.glob("validations/log/**/*.html"))


def test_valid_and_quarantined_rows_are_shown_side_by_side(tmp_path: Path) -> None:
    rows = [event(n) for n in range(100)] + [event(0), event(200, label=None), event(201, user_id=None)]
    report = judge(tmp_path, rows)
    total = report["num_expectations"]
    assert report["summary"] == (
        f"{total} of {total} expectations of the whole log hold; 2 of 103 rows (1.94%) are held back in quarantine "
        "(label missing: 1; user_id missing: 1), 1 repeat another row and are left out."
    )


def test_a_label_of_a_half_is_a_click_for_validate_too(tmp_path: Path) -> None:
    """Earlier, validate counted labels of exactly 1 (one here), ingest from 1, statistics from .5 (four)."""
    labels = [0.5, 0.4, 1, 0, 0.7, 0.7, 0.2, 0.2, 0.3]
    rows = [event(n, label=label) for n, label in enumerate(labels)]
    with pytest.raises(InputError, match="4 clicks in 9 valid rows"):
        judge(tmp_path, rows, limits(min_clicks=5))


def test_too_many_repetitions_are_blocked(tmp_path: Path) -> None:
    write_interactions(tmp_path / "data" / "log", [event(0)] * 3 + [event(1)])
    with pytest.raises(CheckFailed, match=r"2 of 4 rows are duplicated, 50.0%; validate.max_duplicated_share is 40.0%"):
        run(tmp_path / "data" / "log", limits(max_duplicated_share=0.4), expectations())


@pytest.mark.parametrize(
    ("rows", "limit", "expected"),
    [
        (
            [event(n, user_id="u") for n in range(4)],
            {"min_users": 2},
            "1 user in 4 valid rows; validate.min_users is 2",
        ),
        (
            [event(n, item_id="i") for n in range(4)],
            {"min_items": 2},
            "1 item in 4 valid rows; validate.min_items is 2",
        ),
        (
            [event(n, label=0.0) for n in range(4)],
            {"min_clicks": 1},
            "0 clicks in 4 valid rows; validate.min_clicks is 1",
        ),
        (
            [event(n, user_id=None) for n in range(4)],
            {"min_users": 2},
            "0 users in 0 valid rows; validate.min_users is 2",
        ),
        pytest.param(  # as above: nothing is valid, for another reason
            [event(n, label=None) for n in range(4)],
            {"min_clicks": 1},
            "0 users in 0 valid rows",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_log_with_too_little_in_it_is_an_input_error(
    tmp_path: Path, rows: list[dict[str, Any]], limit: dict[str, int], expected: str
) -> None:
    write_interactions(tmp_path / "data" / "log", rows)
    before = sorted(path.name for path in (tmp_path / "data" / "log").iterdir())
    with pytest.raises(InputError) as caught:
        run(tmp_path / "data" / "log", limits(**limit), expectations())
    assert expected in str(caught.value)
    assert sorted(path.name for path in (tmp_path / "data" / "log").iterdir()) == before


def test_no_partition_and_an_empty_one_are_input_errors(tmp_path: Path) -> None:
    data = tmp_path / "data" / "log"
    with pytest.raises(InputError, match="has no partitions; at least 1 is needed"):
        run(data, limits(), expectations())
    write_interactions(data, [event(0)], "2024-01-01")
    write_interactions(data, [], "2024-01-02")
    with pytest.raises(InputError, match="Partition 2024-01-02 is empty"):
        run(data, limits(), expectations())


def test_ingest_s_output_of_a_dirty_table_can_be_validated(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text(
        "user,item,at,click\na,x,2024-01-01,1\na,x,2024-01-01,1\n,x,2024-01-02,1\nb,y,2024-01-03,\nb,y,2024-01-04,0\n"
    )
    data = tmp_path / "data" / "log"
    ingest_table(data, tmp_path / "log.csv")
    report = run(data, limits(), expectations())
    assert (report["rows_valid"], report["rows_duplicated"]) == (2, 1)
    assert report["quarantined_by_reason"] == {"user_id missing": 1, "label missing": 1}


TEXT = st.one_of(
    st.none(), st.sampled_from(["u", "", "u" * 20, "u" * 21, "a\tb", "🙂" * 20, "🙂" * 21, "\x7f", "é\x9f"])
)
TIME = st.one_of(
    st.none(), st.datetimes(datetime(1989, 12, 31), datetime(2100, 1, 2)).map(lambda t: t.replace(tzinfo=UTC))
)
ROW = st.fixed_dictionaries(
    {
        "event_id": st.sampled_from(["e1", "e2", "e3", "e4", "e5"]),
        "user_id": TEXT,
        "item_id": TEXT,
        "occurred_at": TIME,
        "label": st.one_of(st.none(), st.sampled_from([0.0, 1.0, 0.5, -0.1, 1.1, float("nan"), float("inf")])),
        "position": st.one_of(st.none(), st.integers(-2, 2)),
        "impression_id": st.one_of(st.none(), st.sampled_from(["r1", "r2"])),
        "role": st.sampled_from(["impression", "history", "shown"]),
    }
)


@settings(max_examples=6, deadline=None)
@given(rows=st.lists(ROW, min_size=1, max_size=12))
def test_great_expectations_and_the_mask_have_equal_counts(
    tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, Any]]
) -> None:
    folder = tmp_path_factory.mktemp("judged")
    write_interactions(folder / "data" / "log", rows)
    file = folder / "data" / "log" / "interactions" / "2024-01-01.parquet"
    checks = rules(limits())
    flaws = flaws_of([file], checks)
    with Judgement(checks, limits()) as judgement:
        judgement.add(flaws.judged(pq.read_table(file), 0), "all")
    assert judgement.unexpected == flaws.num_rows_by_rule
    assert flaws.num_rows_by_rule[REPEATED] == sum(flaws.repetition > 0)
