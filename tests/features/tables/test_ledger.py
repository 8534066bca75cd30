"""The ledger adds up by counting: a row that a stage loses is never taken for one that repeats another."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from contracts.schema import QUARANTINE, REJECTED
from features.tables.ledger import assemble


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Five interactions, of which validate let four pass."""
    rows = {"interactions": [3, 2], "validated_interactions": [2, 2]}
    for name, days in rows.items():
        (tmp_path / name).mkdir()
        for day, num in enumerate(days):
            pq.write_table(pa.table({"event_id": [str(row) for row in range(num)]}), tmp_path / name / f"{day}.parquet")
    for name, schema in (("rejected", REJECTED), ("quarantine", QUARANTINE)):
        (tmp_path / name).mkdir()
        pq.write_table(schema.empty_table(), tmp_path / name / f"{name}.parquet")
    return tmp_path


def test_the_rest_of_the_interactions_repeat_others(data: Path) -> None:
    told = assemble(data, {"in a request": 3, "in a history only": 1}).to_pylist()
    assert [(line["what"], line["rows"]) for line in told] == [
        ("duplicated", 1),
        ("in a history only", 1),
        ("in a request", 3),
    ]


@pytest.mark.parametrize("fates", [{"in a request": 3}, {"in a request": 3, "in a history only": 2}], ids=str)
def test_a_valid_row_without_a_fate_or_with_two_is_no_repeated_one(data: Path, fates: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=r"has a fate for [35] valid rows: the ledger does not add up"):
        assemble(data, fates)
