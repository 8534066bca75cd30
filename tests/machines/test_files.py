"""What machines share of files: what they see at all, and that two processes of one number do not meet in a file."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.clones import ROOT
from tests.machines.machines import Machine

pytestmark = pytest.mark.xdist_group("machines")

NUMBER = 300
PYTHON = str(ROOT / ".venv" / "bin" / "python")
WRITES = """
import os, sys, time
from pathlib import Path
from contracts.files import written
number, target, go = int(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3])
while True:  # processes that end at once, until one has the number
    child = os.fork()
    if not child and os.getpid() == number:
        break
    if not child:
        os._exit(0)
    if child == number:
        sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    os.waitpid(child, 0)
with written(target) as making:
    making.write_text("whole\\n" * 1000)
    Path(f"{go}.{os.uname().nodename}").touch()
    while not go.exists():
        time.sleep(0.01)
os._exit(0)
"""


def writing(machine: Machine, folder: Path, go: str) -> "subprocess.Popen[bytes]":
    """A process with that number, which replaces a file as soon as another is there."""
    guest = ROOT / folder.name
    words = ("-c", WRITES, str(NUMBER), str(guest / "made"), str(guest / go))
    return machine.start(folder / f"{machine.name}.said", PYTHON, *words)


def test_machines_share_one_folder_and_nothing_else(machines, shared: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").touch()
    started = machines(2)
    names = [machine.run("hostname").strip() for machine in started]
    assert names == ["machine1", "machine2"]
    for machine in started:
        assert machine.run("ls", str(ROOT / "params.yaml"))
        assert not machine.run("ls", "/tmp").strip()
        assert "No such file" in machine.run("ls", str(tmp_path / "mine"), check=False)
        assert not (ROOT / ".git").exists() or "No such file" in machine.run("ls", str(ROOT / "data"), check=False)
        assert "machine" not in Path("/etc/hosts").read_text()
    started[0].run("touch", "/tmp/own", "of-all")
    assert (shared / "of-all").exists()
    assert not started[1].run("ls", "/tmp").strip()
    asked = ("timeout", "2", "bash", "-c", f"exec 3<>/dev/tcp/{started[0].address}/7")
    assert "refused" in started[1].run(*asked, check=False), "it is there, and listens on no such port"
    started[0].unplug()
    assert "refused" not in started[1].run(*asked, check=False)


def test_nothing_of_a_machine_outlives_its_tests(machines) -> None:
    started = machines(1)
    one = started[0]
    sleeper = one.start(started.folder / "said", "sleep", "1000")
    one.power_off()
    assert sleeper.wait(10) != 0
    assert not Path(f"/proc/{one.pid}").exists()


ABANDONED = """
import os, sys
from pathlib import Path
from tests.machines.machines import Machines
machine = Machines(Path(sys.argv[1]), 1, Path(sys.argv[2])).__enter__()[0]
machine.start(Path(sys.argv[2], "said"), "sleep", "1000")
print(machine.pid, flush=True)
os.kill(os.getpid(), 9)
"""


def test_tests_that_are_killed_leave_no_machine(shared: Path, tmp_path: Path) -> None:
    words = [sys.executable, "-c", ABANDONED, str(shared), str(tmp_path)]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    deadline = time.monotonic() + 30
    while is_alive(int(done.stdout)):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def is_alive(pid: int) -> bool:
    """Not a zombie either, for which its machine's parent may have left no one to ask."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_two_processes_of_one_number_on_two_machines_replace_a_file_each_by_a_whole_one(machines, shared: Path) -> None:
    folder = shared / "files"
    folder.mkdir()
    both = [writing(machine, folder, "go") for machine in machines(2)]
    deadline = time.monotonic() + 60
    while len(list(folder.glob("go.*"))) < len(both):
        assert time.monotonic() < deadline, [path.read_text() for path in folder.glob("*.said")]
        time.sleep(0.02)
    (folder / "go").touch()
    codes = [each.wait(60) for each in both]
    assert codes == [0, 0], [path.read_text() for path in folder.glob("*.said")]
    assert (folder / "made").read_text() == "whole\n" * 1000
    assert not list(folder.glob(".*"))
