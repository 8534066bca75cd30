"""The capacity page: lines through measured points, drawn further by hand here; the page is what the program writes."""

import sys
from pathlib import Path

import pytest

from benchmarks import capacity
from benchmarks.capacity import Plan, Slope, batch, online

ROOT = Path(__file__).parents[2]
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
)


def test_a_line_goes_through_its_points_and_a_start_is_never_negative() -> None:
    line = Slope.through([(200, 30.0), (100, 20.0)])
    assert (line.fixed, line.a_row) == (10.0, 0.1)
    assert line.at(1000) == pytest.approx(110.0)
    assert Slope.through([(100, 1.0), (200, 3.0)]).fixed == 0.0


def test_nodes_follow_from_core_hours_and_a_stage_on_one_node_bounds_them() -> None:
    def points(stage: str, core_h: float) -> list[dict]:
        """CPU seconds so that 1e9 rows take so many core hours; 2 bytes a row."""
        a_row = core_h * 3600 / 1e9
        return [{"stage": stage, "rows": n, "cpu_s": a_row * n, "bytes": 2 * n} for n in (1000, 2000)]

    # 90 core hours are spread; 10 on one node of 10 cores take 1 of the 2 hours; 90 / 10 cores / 1 h = 9 nodes
    stages = [*points("ingest", 30), *points("validate", 20), *points("histories", 40), *points("audit", 10)]
    (row,) = batch(PLAN, stages)
    assert (row["events"], row["one node, h"], row["nodes for 2 h"], row["outputs, GB"]) == ("1e09", "10.0", "9", "8")
    (row,) = batch(PLAN, [*stages[:6], *points("audit", 20)])
    assert row["nodes for 2 h"] == "one stage alone takes longer"


def test_what_serving_needs_is_the_users_share_times_their_number() -> None:
    memory = [
        {"events_a_user": n, "bytes_a_user": 1000 + 50 * n, "bytes_a_live_event": 900} for n in (50, 200)
    ]  # 6,000 bytes of a user with 100 events: 6 GB of a million, on two primaries of 4 GB
    reads = [{"events_a_user": n, "bytes_a_read": 40 * n, "commands_a_read": 3.0} for n in (50, 500)]
    told = [row["how much"] for row in online(PLAN, memory, reads)]
    assert told[:6] == ["6.0 kB", "6 GB", "2", "0.0 GB", "0.2 MB/s", "150 a second"]


def test_the_page_is_what_the_program_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["capacity", "--page", str(tmp_path / "page.md")])
    capacity.main()
    assert (tmp_path / "page.md").read_text() == (ROOT / "docs" / "capacity.md").read_text(), (
        "python -m benchmarks.capacity --page docs/capacity.md"
    )
    monkeypatch.setattr(sys, "argv", ["capacity", "--users", "0"])
    with pytest.raises(SystemExit):
        capacity.main()
    assert "--users must be above 0" in capsys.readouterr().err
