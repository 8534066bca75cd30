"""A critical expectation blocks if it cannot be judged, and also if it does not judge single rows."""

from pathlib import Path

import pyarrow as pa
import pytest

from contracts.errors import InputError
from features.quality.expectations import Judgement
from features.quality.outcomes import Outcome, by_group
from features.quality.profile import PROFILE
from features.quality.suite import read_suite
from features.terms.rules import REPETITION, SEVERAL_USERS
from tests.features.raw_logs import limits

ROWS = [{"partition": f"2024-01-0{day}", "rows_in": 5} for day in (1, 2, 3)]


def judged(folder: Path, *asked: str) -> list[Outcome]:
    """The outcomes of these expectations (`kind: arguments`) for three partitions of five rows."""
    file = folder / "expectations.yaml"
    said = (each.split(": ", 1) for each in asked)
    file.write_text(
        "volume:\n"
        + "".join(
            f"- {{why: no {number}, of: partitions, severity: critical, expect: {kind}, with: {told}}}\n"
            for number, (kind, told) in enumerate(said)
        )
    )
    blank = {column.name: None if pa.types.is_temporal(column.type) else 0 for column in PROFILE}
    profile = pa.Table.from_pylist([blank | row for row in ROWS], schema=PROFILE)
    with Judgement([], limits(), read_suite({}, file)) as judgement:
        return judgement.judge_partitions(profile)


@pytest.mark.parametrize("where", ["", ", where: rows_typo >= 3"])
def test_a_missing_column_is_named_and_never_passes(tmp_path: Path, where: str) -> None:
    asked = "{column: %s, min_value: 1}" % ("rows_in" if where else "rows_typo")
    with pytest.raises(InputError, match=r"volume: .* of 'no 0' cannot be judged: .*rows_typo"):
        judged(tmp_path, f"ExpectColumnValuesToBeBetween: {asked}{where}")


def test_expectations_of_the_partitions_as_a_whole_are_judged(tmp_path: Path) -> None:
    told = judged(
        tmp_path,
        "ExpectColumnMeanToBeBetween: {column: rows_in, min_value: 1000}",
        "ExpectTableRowCountToBeBetween: {min_value: 300}",
        "ExpectColumnToExist: {column: nothing_there}",
        "ExpectColumnMaxToBeBetween: {column: rows_in, max_value: 5}",
        "ExpectColumnValuesToBeBetween: {column: rows_in, min_value: 9}, where: rows_in >= 6",
    )
    assert [each.passed for each in told] == [False, False, False, True, True]
    assert by_group(told)["volume"]["failed_critical"][:2] == [
        "expected: no 0 (rows_in at least 1000); otherwise of the partitions as a whole (observed: 5.0)",
        "expected: no 1 (at least 300); otherwise of the partitions as a whole (observed: 3)",
    ]


def test_expectations_of_rows_may_compare_two_columns(tmp_path: Path) -> None:
    file = tmp_path / "expectations.yaml"
    asked = "{column_A: label, column_B: role, value_pairs_set: [[1.0, impression], [0.0, impression]]}"
    file.write_text(
        "rows:\n- {why: pairs, of: rows, severity: warning, expect: ExpectColumnPairValuesToBeInSet, "
        f"with: {asked}}}\n"
    )
    rows = {name: ["a", "b"] for name in ("event_id", "user_id", "item_id")} | {"role": ["impression", "history"]}
    numbers = {"label": [1.0, 0.0], "position": [0, 1], REPETITION: [0, 0], SEVERAL_USERS: [1, 1]}
    batch = pa.table(rows | numbers | {"occurred_at": pa.array([0, 1], pa.timestamp("us", "UTC"))})
    with Judgement([], limits(), read_suite({}, file)) as judgement:
        judgement.add(batch, "batch")
        assert [each.passed for each in judgement.judge_partitions(PROFILE.empty_table())] == [False]
