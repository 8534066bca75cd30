"""Bad rows of every kind, planted in a clean log: each is found by its reason, file and line, and nothing else is."""

import json
import shutil
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from contracts.errors import CheckFailed
from features.stages import validate
from features.terms.rules import rules
from tests.features.judged_rows import flaws_of
from tests.features.planted import NUM_CLEAN, Found, clean, taken, write
from tests.features.raw_logs import digest, expectations, ingest_table, limits, read

AT = "2024-01-02T00:00:00Z,1"
OUTSIDE = ("validate", "occurred_at outside validate.earliest to latest")
PLANTED: dict[tuple[str, str], Sequence[str]] = {
    ("ingest", "wrong number of fields"): [
        f'u1,"i1,{AT}"',  # broken quotes
        *(row.replace(",", ";") for row in clean(5)),  # another delimiter
    ],
    ("ingest", "bad time"): [
        *(f"u1,i1,{at},1" for at in (1704067200, 1704067200000, 1704067200000000)),  # numbers among written times
        "\ufeffuser,item,at,click",  # files joined with their marks and headers
        "user,item,at,click",
    ],
    ("ingest", "id too large"): [f"u1,{'9' * 10_001},{AT}"],
    ("validate", "user_id missing"): [f"nan,i1,{AT}", f"  ,i1,{AT}"],
    ("validate", "item_id missing"): [f"u1,NULL,{AT}"],
    ("validate", "user_id not of 1 to 256 characters"): [f"{'9' * 257},i1,{AT}"],
    OUTSIDE: [
        *(f"u1,i1,2023-12-31T23:59:5{n}Z,1" for n in range(4)),  # clicks from before the log begins
        *(f"u1,i1,2031-01-01T00:00:0{n}Z,1" for n in range(3)),  # and from the future
    ],
}
NEGATIVE = [f"-1,i{n},2024-01-02T00:00:0{n}Z,1" for n in range(6)] + ["u1,-7,2024-01-02T00:00:09Z,0"]
BOTS = [f"bot,i{n % 11},2024-01-05T00:{n // 300:02}:{n // 5 % 60:02}.{n % 5}Z,0" for n in range(900)]
SPAN = {"earliest": "2024-01-01T00:00:00Z", "latest": "2024-01-06T00:00:00Z"}
NUM_COPIES = 17


@pytest.fixture(scope="module")
def dirty(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Found, int, Found]:
    """A log with all faults: its root, the rejected rows, how many rows repeat another, and the planted rows."""
    root = tmp_path_factory.mktemp("planted")
    rows, planted = clean(), {}
    rows += [*NEGATIVE, *BOTS, *[rows[7]] * NUM_COPIES]
    for reason, bad in PLANTED.items():
        planted[reason] = [("log.csv", len(rows) + 2 + n) for n in range(len(bad))]
        rows += bad
    return root, *taken(root, write(root / "log.csv", rows), checked=SPAN), planted


def test_every_bad_row_is_found_by_reason_file_and_line_and_no_other(dirty: tuple) -> None:
    _, found, repeated, planted = dirty
    assert found == planted
    assert repeated == NUM_COPIES


def test_a_partition_of_only_bots_and_negative_ids_are_named(dirty: tuple) -> None:
    assert warned(dirty[0], "users", "ids") == {
        "most_per_minute": [("2024-01-05", 300)],
        "busiest_user_share": [("2024-01-05", 1.0)],
        "negative_ids": [("2024-01-02", 7)],
    }


def test_a_quote_closed_one_line_later_makes_one_row_of_two_which_is_quarantined(tmp_path: Path) -> None:
    bad = [f'u1,"i1,{AT}', f'u1,i1",{AT}', 'u"1,"i2",2024-01-02T00:00:02Z,0']
    path = write(tmp_path / "log.csv", [*clean(), *bad, *clean(9, day=5)])
    assert flawed(tmp_path, path) == {"item_id has control characters": 1}
    rows = read(tmp_path / "data" / "table" / "interactions")
    assert len(rows) == NUM_CLEAN + 2 + 9
    assert {row["user_id"] for row in rows} > {'u"1'}  # a quote within a field is text


def test_a_byte_order_mark_is_no_part_of_a_name(tmp_path: Path) -> None:
    path = write(tmp_path / "log.csv", clean())
    ingest_table(tmp_path / "data" / "table", path)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    ingest_table(tmp_path / "data" / "marked", path)
    assert digest(tmp_path / "data" / "table") == digest(tmp_path / "data" / "marked")


def test_times_of_another_unit_are_outside_the_log(tmp_path: Path) -> None:
    start = int(datetime(2024, 1, 1, tzinfo=UTC).timestamp())
    good = [f"u{n % 8},i{n % 11},{(start + n * 1000) * 1000},{n % 2}" for n in range(NUM_CLEAN)]
    seconds, micros = [f"u1,i1,{start + n},1" for n in range(4)], [f"u1,i1,{(start + n) * 10**6},1" for n in range(3)]
    assert flawed(tmp_path, write(tmp_path / "log.csv", good + seconds + micros), time_unit="ms") == {
        "bad time": 3,
        OUTSIDE[1]: 4,
    }


def test_a_float_id_that_is_not_a_finite_number_is_null(tmp_path: Path) -> None:
    columns = {
        "user": [float(n % 7) for n in range(60)] + [float("nan"), float("inf"), None],
        "item": [n % 5 for n in range(63)],
        "at": pa.array([1_704_067_200 + n for n in range(63)]).cast(pa.timestamp("s")),
        "click": [n % 2 for n in range(63)],
    }
    pq.write_table(pa.table(columns), tmp_path / "log.parquet")
    assert flawed(tmp_path, tmp_path / "log.parquet") == {"user_id missing": 3}
    assert "3" in {row["user_id"] for row in read(tmp_path / "data" / "table" / "interactions")}


def test_minus_one_can_be_configured_as_null(tmp_path: Path) -> None:
    path = write(tmp_path / "log.csv", clean() + NEGATIVE)
    assert flawed(tmp_path, path) == {}
    assert flawed(tmp_path, path, null_words=["-1"]) == {"user_id missing": 6}


def test_a_single_row_of_another_year_is_a_gap_if_the_limits_allow_it(tmp_path: Path) -> None:
    path = write(tmp_path / "log.csv", [*clean(), f"u1,i1,2031{AT[4:]}"])
    assert taken(tmp_path, path) == ({}, 0)
    assert warned(tmp_path, "time")["missing_before"] == [("2031-01-02", 2555)]


def test_a_log_of_repetitions_is_refused_and_the_last_good_output_stays(dirty: tuple, tmp_path: Path) -> None:
    data = tmp_path / "data" / "table"
    shutil.copytree(dirty[0] / "data", tmp_path / "data")
    good = digest(data / "validated_interactions")
    ingest_table(data, write(tmp_path / "log.csv", clean() * 3))
    with pytest.raises(CheckFailed, match=r"240 of 360 rows are duplicated, 66\.7%.* correct the source, or raise the"):
        validate.run(data, limits(max_duplicated_share=0.5), expectations())
    assert digest(data / "validated_interactions") == good


def flawed(root: Path, path: Path, **changes: Any) -> Counter[str]:
    """Rows left out by reason, Great Expectations aside."""
    data = root / "data" / "table"
    report = ingest_table(data, path, **changes)
    flaws = flaws_of(sorted((data / "interactions").iterdir()), rules(limits(max_id_length=256)))
    return Counter(report["dropped"]) + Counter(flaws.reason.tolist())


def warned(root: Path, *groups: str) -> dict[str, list[tuple[str, Any]]]:
    """What failed of these groups: column -> (where, value)."""
    told = json.loads((root / "data" / "table" / "profile" / "expectations.json").read_text())["expectations"]
    return {
        each["column"]: [(one["where"], one["value"]) for one in each["examples"]]
        for each in told
        if not each["passed"] and each["group"] in groups and each["of"] != "rule"
    }
