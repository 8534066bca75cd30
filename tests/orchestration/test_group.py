"""The process group: nothing that it starts outlives it."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from orchestration.group import end_group, run_group


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


def _wait_for(path: Path) -> str:
    for _ in range(6000):  # a Python that starts on a busy machine
        if path.exists() and path.read_text().strip():
            return path.read_text().strip()
        time.sleep(0.01)
    raise AssertionError(f"{path} was never written")


def _gone(pid: int) -> bool:
    for _ in range(3000):
        if not _alive(pid):
            return True
        time.sleep(0.01)
    return False


def test_status_and_every_line_come_back(tmp_path: Path) -> None:
    said: list[str] = []
    assert run_group(["sh", "-c", "echo one; echo two >&2; exit 3"], cwd=tmp_path, say=said.append) == 3
    assert said == ["one", "two"]


def test_an_exception_ends_grandchildren_too(tmp_path: Path) -> None:
    def interrupt(line: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_group(["sh", "-c", f"sleep 60 & echo $! > {tmp_path}/pid; echo up; wait"], cwd=tmp_path, say=interrupt)
    assert _gone(int(_wait_for(tmp_path / "pid")))


def test_a_group_that_ignores_polite_signals_is_killed(tmp_path: Path) -> None:
    stubborn = f"trap '' INT TERM; sh -c 'trap \"\" INT TERM; echo $$ > {tmp_path}/pid; while :; do sleep 0.1; done'"
    process = subprocess.Popen(["sh", "-c", stubborn], start_new_session=True, text=True)
    pid = int(_wait_for(tmp_path / "pid"))
    end_group(process, ((signal.SIGINT, 0.1), (signal.SIGTERM, 0.1), (signal.SIGKILL, 5.0)))
    assert process.returncode == -signal.SIGKILL
    assert _gone(pid)


def test_a_left_over_child_of_an_ended_leader_is_ended(tmp_path: Path) -> None:
    # a shell has what it starts beside itself ignore SIGINT; the test above is of what ignores it
    left = "env --default-signal=INT sleep 60" if sys.platform == "linux" else "sleep 60"
    assert run_group(["sh", "-c", f"{left} >/dev/null 2>&1 & echo $! > {tmp_path}/pid"], cwd=tmp_path, say=print) == 0
    assert _gone(int(_wait_for(tmp_path / "pid")))


@pytest.mark.skipif(sys.platform != "linux", reason="the parent-death signal is Linux's")
def test_a_hard_kill_of_the_caller_ends_the_command(tmp_path: Path) -> None:
    caller = (
        "from pathlib import Path; from orchestration.group import run_group; "
        f"run_group(['sh', '-c', 'echo $$ > {tmp_path}/pid; exec sleep 60'], cwd=Path('.'), say=print)"
    )
    process = subprocess.Popen([sys.executable, "-c", caller], cwd=Path(__file__).resolve().parents[2])
    pid = int(_wait_for(tmp_path / "pid"))
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert _gone(pid)
