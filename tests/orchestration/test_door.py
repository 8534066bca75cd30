"""What starts `make ui` and `make serve`, over small programs: ports, signals, and who is left."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

DOOR = (sys.executable, "-m", "orchestration.door", "--door", "make ui")
ROOT = Path(__file__).resolve().parents[2]

PARENT = """
import os, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import os, time; os.setsid(); time.sleep(60)"])
print(os.getpid(), child.pid, flush=True)
time.sleep(60)
"""
"""As bentoml is: its worker leaves the process group and looks after nobody."""

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="Linux tells a process of its parent's end")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def all_end(pids: list[int], seconds: float = 8) -> bool:
    limit = time.monotonic() + seconds
    while any(map(lives, pids)) and time.monotonic() < limit:
        time.sleep(0.05)
    return not any(map(lives, pids))


@pytest.mark.parametrize("who", ["make", "the door", "the program"])
def test_after_a_kill_no_process_is_left_unless_the_door_was_killed(who: str) -> None:
    shell = ["sh", "-c", '"$@"; true', "make", *DOOR, "--port", str(free_port()), "--", sys.executable, "-c", PARENT]
    with subprocess.Popen(shell, cwd=ROOT, stdout=subprocess.PIPE, text=True, start_new_session=True) as make:
        assert make.stdout is not None
        program, worker = map(int, make.stdout.readline().split())
        door = int(Path(f"/proc/{program}/stat").read_text().rpartition(")")[2].split()[1])
        os.kill({"make": make.pid, "the door": door, "the program": program}[who], signal.SIGKILL)
        there = [door, program] if who == "the door" else [door, program, worker]
        assert all_end(there)
        if lives(worker):  # an own worker asks for its parent's end itself: contracts.parent
            os.kill(worker, signal.SIGKILL)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_one_signal_ends_all_of_it_and_the_status_says_so(number: int) -> None:
    command = [*DOOR, "--port", str(free_port()), "--", sys.executable, "-c", PARENT]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as door:
        assert door.stdout is not None
        pids = [*map(int, door.stdout.readline().split())]
        door.send_signal(number)
        assert door.wait(15) == 130
        assert all_end(pids, 0)


def test_the_programs_own_status_is_ours() -> None:
    command = [*DOOR, "--port", str(free_port()), "--", sys.executable, "-c", "import sys; sys.exit(7)"]
    assert subprocess.run(command, cwd=ROOT, check=False).returncode == 7


@pytest.mark.parametrize(
    ("port", "says"), [("0", "not a number from 1"), ("x", "not a number from 1"), ("", "PORT is")]
)
def test_an_invalid_port_is_a_one_line_error(port: str, says: str) -> None:
    done = subprocess.run([*DOOR, f"--port={port}"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert says in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_port_in_use_names_the_listener_and_how_to_choose_another() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        command = [*DOOR, "--port", str(taken.getsockname()[1])]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert f"in use by process {os.getpid()} (" in done.stderr
    assert "choose another: make ui PORT=" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("host", ["::1", "203.0.113.9", "nosuch.example.invalid", ""])
def test_an_address_of_another_machine_is_a_one_line_error(host: str) -> None:
    done = subprocess.run(
        [*DOOR, "--host", host, "--port", str(free_port()), "--", sys.executable, "-c", "print('it listens')"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert "HOST=127.0.0.1" in line
