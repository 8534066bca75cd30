"""DuckDB uses the machine's resources or the configured ones; no byte of any stage depends on them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from contracts.errors import InputError
from features.stages import histories, ingest
from features.stages import statistics as counting
from features.tables import connection
from features.terms.rules import rules
from tests.clones import ROOT
from tests.features.judged_rows import flaws_of
from tests.features.planted import clean, write
from tests.features.raw_logs import digest, ingest_table, limits
from tests.features.small_log import build, random_log


def made(root: Path) -> dict[str, str]:
    table = root / "data" / "table"
    ingest_table(table, write(root / "log.csv", [*clean(600), *clean(600)[:50], "u1,i1,soon,1"]))
    flaws = flaws_of(sorted((table / "interactions").iterdir()), rules(limits()))
    log = root / "data" / "log"
    build(log, random_log(1, num_requests=300))
    outs = {
        path.relative_to(root).as_posix(): digest(path)
        for data, names in (
            (table, ingest.OUTS[:-1]),  # absorbed says where the log lies
            (log, (*histories.OUTS, *counting.TABLES)),
        )
        for path in (data / name for name in names)
    }
    return outs | {"flaws": str([flaws.row.tolist(), flaws.reason.tolist(), flaws.repetition.tolist()])}


def test_threads_and_memory_change_no_byte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = made(tmp_path / "machine")
    for threads, memory in (("1", "200"), ("5", "100")):
        monkeypatch.setenv(connection.THREADS, threads)
        monkeypatch.setenv(connection.MEMORY, memory)
        assert made(tmp_path / threads) == expected
        with connection.connect() as engine:
            (told,) = engine.sql("SELECT current_setting('threads'), current_setting('memory_limit')").fetchall()
        assert (str(told[0]), told[1].split(".")[0]) == (threads, {"200": "190", "100": "95"}[memory])


def test_a_time_without_a_zone_is_utc_wherever_the_machine_is(tmp_path: Path) -> None:
    """DuckDB reads the machine's time zone once per process, and a cursor does not inherit its connection's."""
    write(tmp_path / "log.csv", ["u1,i1,2024-01-01T02:00:00,1", "u1,i2,2024-01-01T03:00:00Z,0"])
    asked = (
        "import sys; from pathlib import Path; from tests.features.raw_logs import ingest_table, read; "
        "root = Path(sys.argv[1]); ingest_table(root / 'data' / 'table', root / 'log.csv'); "
        "print(*sorted(each['occurred_at'].isoformat() for each in read(root / 'data' / 'table' / 'interactions')))"
    )
    command = [sys.executable, "-c", asked, str(tmp_path)]
    told = subprocess.run(
        command, cwd=ROOT, env=os.environ | {"TZ": "America/New_York"}, capture_output=True, text=True, check=True
    ).stdout
    assert told.split() == ["2024-01-01T02:00:00+00:00", "2024-01-01T03:00:00+00:00"]


def test_settings_that_are_not_numbers_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(connection.THREADS, "all")
    with pytest.raises(InputError, match=r"LEITMOTIF_THREADS is 'all', not a whole number of at least 1"):
        connection.num_threads()
    monkeypatch.delenv(connection.THREADS)
    assert connection.num_threads() >= 1
    assert connection.memory_mb() >= connection.LEAST_MB


def test_a_small_container_is_not_filled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "memory.max").write_text("536870912\n")
    monkeypatch.setattr(connection, "LIMITS", (tmp_path / "memory.max",))
    assert connection.memory_mb() == 268
    monkeypatch.setattr(connection, "QUOTA", tmp_path / "cpu.max")
    before = connection.num_threads()
    for told, expected in (("max 100000", before), ("100000 100000", 1), ("50000 100000", 1)):
        (tmp_path / "cpu.max").write_text(f"{told}\n")
        assert connection.num_threads() == expected
