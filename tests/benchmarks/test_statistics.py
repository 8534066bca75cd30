"""The benchmark of the stage statistics on a log of a few thousand events: it measures what its docstring says."""

from pathlib import Path

import pyarrow.dataset as ds

from benchmarks.statistics import CLICK_RATE, measure
from contracts.schema import INTERACTIONS


def test_every_case_is_measured_over_all_events_of_a_log_that_validate_could_have_left(tmp_path: Path) -> None:
    rows = measure(tmp_path, num_events=3000, num_days=3, num_users=50, num_items=30)
    assert [row["events"] for row in rows] == [3000, 4000, 4000, 4000]
    assert rows[1]["rows_written"] == rows[2]["rows_written"] == rows[3]["rows_written"] > rows[0]["rows_written"] > 0
    assert all(row["wall_s"] > 0 and row["cpu_s"] > 0 and row["peak_mb"] > 50 for row in rows)
    table = ds.dataset(tmp_path / "data" / "table" / "validated_interactions", format="parquet").to_table()
    assert table.schema.equals(INTERACTIONS)
    labels, items = table["label"].to_numpy(), table["item_id"].value_counts().to_pylist()
    assert abs(labels.mean() - CLICK_RATE) < 0.03
    assert max(each["counts"] for each in items) > 10 * min(each["counts"] for each in items)
    assert len(table["event_id"].unique()) == len(table)
