"""A few rows long after all others do not set the log's end: they are held back, and the report says so."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from features.stages.validate import run
from tests.features.raw_logs import expectations, limits, read, write_interactions

YEAR_S = 31_536_000
START = datetime(2024, 1, 1, tzinfo=UTC)


def rows(first: datetime, number: int, name: str, **changes: Any) -> list[dict[str, Any]]:
    usual = {"label": 1.0} | changes
    return [
        {"event_id": f"{name}{n}", "user_id": f"u{n % 7}", "item_id": f"i{n % 5}", **usual}
        | {"occurred_at": first + timedelta(seconds=n)}
        for n in range(number)
    ]


def judged(tmp_path: Path, days: dict[str, list[dict[str, Any]]], max_silence_s: float | None) -> dict[str, Any]:
    """Validate a log of these partitions; every row has one fate."""
    data = tmp_path / "data" / "log"
    for day, of_day in days.items():
        write_interactions(data, of_day, day)
    report = dict(run(data, limits(max_silence_s=max_silence_s), expectations()))
    assert report["rows_in"] == sum(map(len, days.values()))
    assert report["rows_in"] == report["rows_valid"] + report["rows_quarantined"] + report["rows_duplicated"]
    return report


@pytest.fixture
def log() -> dict[str, list[dict[str, Any]]]:
    """Two days of 200 rows, a row of another year and two of 2099."""
    days = {f"2024-01-0{day}": rows(START + timedelta(days=day - 1), 200, f"d{day}-") for day in (1, 2)}
    days["2042-01-02"] = rows(START.replace(year=2042, day=2), 1, "typo-")
    days["2099-01-01"] = rows(START.replace(year=2099), 2, "last-")
    return days


def test_rows_long_after_all_others_are_held_back_with_their_reason(tmp_path: Path, log: dict[str, Any]) -> None:
    report = judged(tmp_path, log, YEAR_S)
    assert report["quarantined_by_reason"] == {"occurred_at long after all other rows": 3}
    assert report["expectations"]["time"]["held_back"] == {"occurred_at long after all other rows": 3}
    held = {row["event_id"] for row in read(tmp_path / "data" / "log" / "quarantine")}
    assert held == {"typo-0", "last-0", "last-1"}
    valid = read(tmp_path / "data" / "log" / "validated_interactions")
    assert max(row["occurred_at"] for row in valid) < START + timedelta(days=2)


def test_without_a_limit_they_set_the_end_of_the_log(tmp_path: Path, log: dict[str, Any]) -> None:
    assert judged(tmp_path, log, None)["rows_valid"] == 403


def test_a_log_that_was_silent_for_years_and_goes_on_is_left_alone(tmp_path: Path, log: dict[str, Any]) -> None:
    log["2099-01-01"] = rows(START.replace(year=2099), 8, "last-")  # 2 % of the log
    assert judged(tmp_path, log, YEAR_S)["rows_quarantined"] == 0


def test_events_of_the_service_are_left_alone_years_after_the_log(tmp_path: Path, log: dict[str, Any]) -> None:
    """An old log served by the clock on the wall."""
    now = START.replace(year=2026)
    live = {"2026-01-01": rows(now, 2, "live-", arrived_at=now)}
    days = {name: log[name] for name in ("2024-01-01", "2024-01-02")}
    assert judged(tmp_path / "live", days | live, YEAR_S)["rows_quarantined"] == 0
    not_live = {"2026-01-01": rows(now, 2, "typo-")}
    assert judged(tmp_path / "typo", days | not_live, YEAR_S)["rows_quarantined"] == 2


def test_a_silence_up_to_the_limit_is_left_alone(tmp_path: Path, log: dict[str, Any]) -> None:
    days = {name: log[name] for name in ("2024-01-01", "2024-01-02")}
    near = {"2024-12-31": rows(datetime(2024, 12, 31, tzinfo=UTC), 1, "near-")}
    assert judged(tmp_path, days | near, YEAR_S)["rows_quarantined"] == 0
