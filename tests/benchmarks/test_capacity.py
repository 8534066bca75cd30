"""The capacity page: extrapolated figures equal those computed by hand here, and docs/capacity.md is up to date."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import capacity
from benchmarks.capacity import Plan, Slope, batch, exchanged, on_spark, online

ROOT = Path(__file__).parents[2]
NODES = "nodes for 2 hours, without Spark's own cost"
PLAN = Plan(
    events=[1e9],
    users=1e6,
    events_a_user=100,
    live_events_per_s=10,
    rankings_per_s=50,
    load_every_h=1,
    cores=10,
    within_h=2,
    redis_gb=4,
    fill=0.5,
    replicas=1,
)


def test_a_line_goes_through_its_points_and_its_fixed_part_is_never_negative() -> None:
    line = Slope.through([(200, 30.0), (100, 20.0)])
    assert (line.fixed, line.a_row) == (10.0, 0.1)
    assert line.at(1000) == pytest.approx(110.0)
    assert Slope.through([(100, 1.0), (200, 3.0)]).fixed == 0.0


def test_the_number_of_nodes_follows_from_core_hours_and_the_stage_on_one_node() -> None:
    def points(stage: str, core_h: float) -> list[dict]:
        """Two measured points of a stage that takes `core_h` core hours and 2 bytes a row for 1e9 rows."""
        a_row = core_h * 3600 / 1e9
        return [{"stage": stage, "rows": n, "cpu_s": a_row * n, "bytes": 2 * n} for n in (1000, 2000)]

    # 10 core hours on one node of 10 cores take 1 of the 2 hours; the other 90 take 90 / 10 cores / 1 h = 9 nodes
    stages = [*points("ingest", 30), *points("validate", 20), *points("histories", 40), *points("audit", 10)]
    (row,) = batch(PLAN, stages)
    assert (row["events"], row["hours on one node"], row[NODES], row["outputs, GB"]) == ("1 billion", "10.0", "9", "8")
    (row,) = batch(PLAN, [*stages[:6], *points("audit", 20)])
    assert row[NODES] == "what runs on one node takes longer"


def test_what_the_network_carries_is_what_units_and_the_driver_read_and_wrote() -> None:
    def point(engine: str, rows: int, **moved: float) -> dict:
        rest = {"engine": engine, "stage": "histories", "rows": rows, "shuffle_mb": 0.0}
        return rest | {f"{name}_mb": value for name, value in moved.items()}

    rows = [  # 10, 5, 3 and 2 bytes a row, and 1 MB that is read whatever the rows: 20 GB and .001 GB for 1e9
        point("spark", n * 1_000_000, unit_read=10 * n + 1, unit_written=5 * n, driver_read=3 * n, driver_written=2 * n)
        for n in (1, 10)
    ]
    (row,) = exchanged(PLAN, [*rows, {"engine": "duckdb", "stage": "histories", "rows": 1}])
    assert list(row.values()) == ["histories", "0", "10", "5", "3", "2", "20"]


def test_the_cost_of_spark_is_the_ratio_of_the_same_stage_at_the_same_size() -> None:
    rows = [
        {"rows": rows, "stage": stage, "engine": engine, "cpu_s": cpu}
        for rows, stage, engine, cpu in (
            (10, "a", "duckdb", 2.0), (10, "b", "duckdb", 5.0), (10, "a", "spark", 6.0), (10, "b", "spark", 5.0),
            (2e6, "a", "duckdb", 4.0), (2e6, "a", "spark", 10.0),
        )
    ]  # fmt: skip
    assert on_spark(rows) == "1.0 to 3.0 times at 1e-05 million rows and 2.5 to 2.5 times at 2 million rows"


def test_what_serving_needs_is_the_need_of_one_user_times_the_number_of_users() -> None:
    memory = [
        {"events_a_user": n, "bytes_a_user": 1000 + 50 * n, "bytes_a_live_event": 900} for n in (50, 200)
    ]  # a million users of 6,000 bytes each and .03 GB of live events, 2 GB of room on a primary
    reads = [{"events_a_user": n, "bytes_a_read": 40 * n, "commands_a_read": 3.0} for n in (50, 500)]
    needed = [row["how much"] for row in online(PLAN, memory, reads)]
    assert needed[:7] == ["6.0 kB", "6 GB", "0.0 GB", "4", "1 of each primary", "0.2 MB/s", "150 a second"]
    needed = [row["how much"] for row in online(replace(PLAN, live_events_per_s=1000), memory, reads)]
    assert needed[3] == "one cannot take the live events: load every 0.6 hours"  # 3.24 GB an hour


def test_the_page_in_docs_is_what_the_program_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["capacity", "--page", str(tmp_path / "page.md")])
    capacity.main()
    assert (tmp_path / "page.md").read_text() == (ROOT / "docs" / "capacity.md").read_text(), (
        "python -m benchmarks.capacity --page docs/capacity.md"
    )
    assert "ingest and validate" in (tmp_path / "page.svg").read_text()
    assert (ROOT / "docs" / "capacity.svg").exists()
    monkeypatch.setattr(sys, "argv", ["capacity", "--users", "0"])
    with pytest.raises(SystemExit):
        capacity.main()
    assert "--users must be a number above 0" in capsys.readouterr().err
