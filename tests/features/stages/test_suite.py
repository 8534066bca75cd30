"""An invalid file of expectations is refused with the name of the faulty part."""

from pathlib import Path

import pytest

from contracts.errors import InputError
from features.quality.suite import read_suite

ONE = "[{why: so, of: rows, expect: ExpectColumnToExist, with: {column: a}, severity: warning}]"


@pytest.mark.parametrize("group", ["bot rates", "bot-rates", "'bots/a'"])
def test_a_group_that_dagster_could_not_name_a_check_after_is_refused(group: str, tmp_path: Path) -> None:
    file = tmp_path / "expectations.yaml"
    file.write_text(f"{group}: {ONE}\n")
    with pytest.raises(InputError, match="letters, digits and _"):
        read_suite({}, file)


def test_an_empty_group_is_refused_and_one_with_an_expectation_is_read(tmp_path: Path) -> None:
    file = tmp_path / "expectations.yaml"
    file.write_text("mine: []\n")
    with pytest.raises(InputError, match="'mine'"):
        read_suite({}, file)
    file.write_text(f"mine_2: {ONE}\n")
    assert [each.group for each in read_suite({}, file)] == ["mine_2"]
