"""Live events are sealed once, by the day on which they were acknowledged, and a killed run is run again."""

import os
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from contracts.errors import InputError
from contracts.schema import LIVE, ROLE_IMPRESSION
from features.live.absorb import absorb
from features.live.sqlite import SqliteTail
from features.sealed.event import EVENT, OUTCOME, LiveEvent
from features.sealed.files import read_sealed

ROOT = Path(__file__).resolve().parents[3]


def event(number: int, **changes: object) -> LiveEvent:
    made = LiveEvent(f"e{number}", EVENT, "ü", f"i{number}", 1_700_000_000_000_000 + number, 1.0, ROLE_IMPRESSION, True)
    return made._replace(**changes)


@pytest.fixture
def tail(tmp_path: Path) -> SqliteTail:
    return SqliteTail(tmp_path / "live" / "table.db")


def sealed(folder: Path) -> pa.Table:
    return pa.concat_tables([read_sealed(path).cast(LIVE) for path in sorted(folder.glob("*.parquet"))])


def test_every_event_is_sealed_as_it_was_and_once(tail: SqliteTail, tmp_path: Path) -> None:
    folder = tmp_path / "live" / "table"
    told = {"impression_id": "r", "position": 3, "session_id": "s", "device": "📱", "is_subscriber": True}
    events = [event(0, **told, reading_item_id="p"), event(1), event(1, revision=OUTCOME, label=0.25)]
    tail.append(events)
    today = f"{datetime.now(UTC):%Y-%m-%d}.parquet"
    assert absorb(tail, folder) == {today: 3}
    assert absorb(tail, folder) == {}
    tail.append([event(2)])
    assert absorb(tail, folder) == {today: 1}
    rows = sealed(folder).to_pylist()
    assert [row["seq"] for row in rows] == [seq for seq, _ in tail.since(0)]
    for row, wanted in zip(rows, [*events, event(2)], strict=True):
        at = row.pop("occurred_at")
        row["occurred_at"] = pa.scalar(at, LIVE.field("occurred_at").type).cast(pa.int64()).as_py()
        assert row == {"seq": row["seq"]} | {n: v for n, v in wanted._asdict().items() if n != "in_history"}


def test_a_day_s_file_holds_what_was_acknowledged_that_day(tail: SqliteTail, tmp_path: Path) -> None:
    folder = tmp_path / "live" / "table"
    tail.append([event(number) for number in range(4)])
    days = [datetime(2025, 3, day, 23, 59, tzinfo=UTC) for day in (1, 1, 2, 4)]
    connection = tail._connection()
    for seq, at in zip([seq for seq, _ in tail.since(0)], days, strict=True):
        connection.execute("UPDATE log SET seq = ? + event_key % 97 WHERE seq = ?", (int(at.timestamp() * 1e6), seq))
    assert absorb(tail, folder) == {"2025-03-01.parquet": 2, "2025-03-02.parquet": 1, "2025-03-04.parquet": 1}
    assert sorted(path.stem for path in folder.glob("*.parquet")) == ["2025-03-01", "2025-03-02", "2025-03-04"]


def test_events_that_were_pruned_are_not_sealed_again(tail: SqliteTail, tmp_path: Path) -> None:
    folder = tmp_path / "live" / "table"
    tail.append([event(0), event(1)])
    absorb(tail, folder)
    tail.prune(tail.newest_seq())
    tail.append([event(2)])
    absorb(tail, folder)
    assert sealed(folder)["event_id"].to_pylist() == ["e0", "e1", "e2"]


def test_a_damaged_file_stops_it_and_nothing_is_lost(tail: SqliteTail, tmp_path: Path) -> None:
    folder = tmp_path / "live" / "table"
    tail.append([event(0)])
    absorb(tail, folder)
    (path,) = folder.glob("*.parquet")
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    tail.append([event(1)])
    with pytest.raises(InputError, match=path.name):
        absorb(tail, folder)
    path.write_bytes(whole)
    absorb(tail, folder)
    assert sealed(folder)["event_id"].to_pylist() == ["e0", "e1"]


PROGRAM = """
import sys
from pathlib import Path
from features.live.absorb import absorb
from features.live.sqlite import SqliteTail
root = Path(sys.argv[1])
tail = SqliteTail(root / "live" / "table.db")
print("begun", flush=True)
while True:
    absorb(tail, root / "live" / "table")
"""


def test_killed_again_and_again_while_events_come_it_seals_each_once(tail: SqliteTail, tmp_path: Path) -> None:
    folder, number = tmp_path / "live" / "table", 0
    for _ in range(4):
        process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"
        ends = time.monotonic() + 0.4
        while time.monotonic() < ends:
            tail.append([event(number + each) for each in range(20)])
            number += 20
        os.kill(process.pid, signal.SIGKILL)
        process.wait(10)
        process.stdout.close()
    absorb(tail, folder)
    table = sealed(folder)
    assert table["event_id"].to_pylist() == [f"e{each}" for each in range(number)]
    assert pc.count_distinct(table["seq"]).as_py() == number
    assert [path.name for path in folder.iterdir() if not path.name.endswith(".parquet")] == []
    assert all(pq.read_metadata(path).num_rows for path in folder.glob("*.parquet"))
