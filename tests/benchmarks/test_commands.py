"""Every benchmark of the feature store still runs, on a log of a few thousand events, and compares what it says."""

import importlib
import json
import shutil
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

pytestmark = pytest.mark.filterwarnings("ignore:fetch_arrow_table:DeprecationWarning")  # Feast's own store asks so


def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str, *arguments: str) -> str:
    """What the command prints."""
    monkeypatch.setattr(sys, "argv", [name, *arguments])
    importlib.import_module(f"benchmarks.{name}").main()
    return capsys.readouterr().out


def rows_of(table: str) -> list[list[str]]:
    """The cells of a Markdown table, without its head."""
    lines = [line for line in table.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def test_histories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    printed = run(monkeypatch, capsys, "histories", "--rows", "5000", "--days", "3", "--reports", str(tmp_path))
    assert [row[1] for row in rows_of(printed)] == [
        "ours, empty cache",
        "DuckDB SQL",
        "ours, one day more",
        "ours, nothing new",
    ]


def test_load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    small = ("--users", "40", "--events", "30", "--items", "50", "--days", "3", "--changed", "0.1")
    rows = rows_of(run(monkeypatch, capsys, "load", *small, "--reports", str(tmp_path)))
    assert rows[1][0] == "4 of 40 users changed"
    assert len(rows) == 6


def test_catalogue_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    small = ("--sizes", "200", "9000", "--queries", "2", "--result", str(tmp_path / "told.json"))
    report = json.loads(run(monkeypatch, capsys, "catalogue_size", *small))
    assert [row["items"] for row in report["sizes"]] == [200, 9000]
    assert all(row["find_ms"] > 0 and row["read_each_minute_ms"] > 0 for row in report["sizes"])
    assert json.loads((tmp_path / "told.json").read_text()) == report


@pytest.mark.slow
def test_offline_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    small = ("--impressions", "200", "--rows", "300", "--users", "20", "--snapshots", "3", "--length", "5")
    rows = rows_of(run(monkeypatch, capsys, "offline_store", *small, "--reports", str(tmp_path)))
    assert len({row[0] for row in rows}) == len(rows) > 3


def test_loader(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    small = ("--events", "3000", "--length", "20", "--batch", "16", "--seconds", "0.01")
    assert "ours: encoded for the model" in run(monkeypatch, capsys, "loader", *small)


def test_online_store(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    report = json.loads(run(monkeypatch, capsys, "online_store", "--reads", "10", "--pushes", "2", "--users", "20"))
    assert report["sqlite"]["ratios_of_p50"].keys() == report.get("redis", report["sqlite"])["ratios_of_p50"].keys()


@pytest.mark.skipif(shutil.which("redis-server") is None, reason="redis-server is not installed")
def test_online_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    small = ("--users", "40", "--events", "20", "80", "--items", "50", "--live", "500", "--plan-users", "1e6")
    run(monkeypatch, capsys, "online_memory", *small, "--result", str(tmp_path / "online_memory.json"))
    report = json.loads((tmp_path / "online_memory.json").read_text())
    short, long = (row["bytes_a_user"] for row in report["rows"])
    assert 20 < (long - short) / 60 < 200  # an event is a hundred bytes or so, not a thousand
    assert report["plan"]["bytes_an_event"] == pytest.approx((long - short) / 60, abs=0.1)
    assert report["plan"]["users_gb"] == pytest.approx(report["plan"]["bytes_a_user"] / 1000, abs=0.1)
    assert all(300 < row["bytes_a_live_event"] < 2_000 for row in report["rows"])


@pytest.mark.skipif(shutil.which("redis-server") is None, reason="redis-server is not installed")
def test_redis_load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """On Spark: tests/features/engine."""
    small = ("--users", "40", "--events", "20", "--items", "50", "--engines", "duckdb", "--reports", str(tmp_path))
    ((engine, rows, *_),) = rows_of(run(monkeypatch, capsys, "redis_load", *small))
    assert (engine, rows) == ("duckdb", "80")


def test_snapshot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """On Spark: tests/features/engine."""
    small = ("--rows", "3000", "--engines", "duckdb", "--folder", str(tmp_path), "--reports", str(tmp_path))
    ((rows, engine, *_),) = rows_of(run(monkeypatch, capsys, "snapshot", *small))
    assert (rows, engine) == ("3,000", "duckdb")


def test_readers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    small = ("--rows", "3000", "--folder", str(tmp_path), "--reports", str(tmp_path))
    rows = rows_of(run(monkeypatch, capsys, "readers", *small))
    assert [row[1] for row in rows] == ["600", "600", "600", "600"]


def test_live_memory(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    small = ("--rows", "2000", "4000", "--users", "50", "--items", "60", "--calls", "3")
    report = json.loads(run(monkeypatch, capsys, "live_memory", *small))["rows"]
    assert [report[number]["rows"] >= int(number) for number in ("2000", "4000")] == [True, True]
    assert all(each["bytes_a_row"] < 150 for each in report.values())


def test_peer(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    said = json.loads(run(monkeypatch, capsys, "peer", "--one", "mos", "20", "--seconds", "0.05"))
    assert said["impressions_per_cpu_s"] > 0


def test_the_peer_reads_the_same_requests(tmp_path: Path) -> None:
    peer = importlib.import_module("benchmarks.peer")
    events, requests = peer.log_of(20)
    peer.write_for_peer(tmp_path, events, requests)
    rows = pq.read_table(tmp_path / "train.parquet").to_pydict()
    histories = pq.read_table(tmp_path / "users.parquet")["full_item_seq"].to_pylist()
    assert rows["item_index"] == requests.item_index.tolist()
    assert rows["label"] == requests.label.tolist()
    first = peer.CANDIDATES  # a row of the second request
    start, end = requests.starts[1], requests.ends[1]
    assert rows["seq_len"][first] == end - start == 20
    assert histories[rows["user_index"][first]] == events.item_index[start:end].tolist()
