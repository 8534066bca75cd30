"""A running command is distinguished from files of a dead process, even if its process id was reused."""

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from contracts.errors import InputError
from contracts.files import locked
from contracts.running import LOCKS, RWLOCK, alone, begun, held, reader_of, running, written_by
from tests.locks import modes_of_locks

ROOT = Path(__file__).resolve().parents[2]
DVC = ("/somewhere/bin/dvc", "repro")


@contextmanager
def process(*words: str) -> Iterator[int]:
    """A living process whose command line ends with these words."""
    living = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)", *words])
    try:
        yield living.pid
    finally:
        living.kill()
        living.wait()


def note(root: Path, pid: int, cmd: str, *, path: str = "live/table", age_s: float = 0) -> Path:
    """What DVC would have written."""
    info = {"pid": pid, "cmd": cmd}
    file = root / RWLOCK
    file.parent.mkdir(parents=True, exist_ok=True)
    where = str((root / path).resolve())
    file.write_text(json.dumps({"write": {f"{where}-out": info}, "read": {where: [info]}}))
    os.utime(file, (time.time() - age_s,) * 2)
    return root / path


@pytest.mark.parametrize(
    ("words", "cmd"),
    [
        (DVC, "/somewhere/bin/dvc repro"),
        (("-m", "dvc", "repro", "-s", "count"), "/x/site-packages/dvc/__main__.py repro -s count"),
        (("dvc", "exp", "run", "-S", "a b=c d"), "dvc exp run -S a b=c d"),
    ],
)
def test_a_living_dvc_is_seen_by_its_command_line(tmp_path: Path, words: tuple[str, ...], cmd: str) -> None:
    with process(*words) as pid:
        folder = note(tmp_path, pid, cmd)
        assert [one.pid for one in running(tmp_path)] == [pid]
        assert f"(process {pid})" in str(reader_of(folder, tmp_path))
        assert written_by(pid, tmp_path) == {Path(f"{folder}-out").resolve()}
    assert running(tmp_path) == []


@pytest.mark.parametrize("words", [(), ("/somewhere/bin/dvc", "push"), ("bash", "-c", "sleep 9")])
def test_a_number_that_another_program_has_by_now_is_nobody(tmp_path: Path, words: tuple[str, ...]) -> None:
    with process(*words) as pid:
        folder = note(tmp_path, pid, " ".join(DVC))
        assert running(tmp_path) == []
        assert reader_of(folder, tmp_path) is None


def test_a_process_that_began_after_the_note_did_not_write_it(tmp_path: Path) -> None:
    with process(*DVC) as pid:
        folder = note(tmp_path, pid, " ".join(DVC), age_s=100)
        assert reader_of(folder, tmp_path) is None


@pytest.mark.parametrize("text", ["", '{"read": {', "[]"])
def test_a_note_that_is_half_written_holds_nobody_up(tmp_path: Path, text: str) -> None:
    note(tmp_path, 1, "dvc repro")
    (tmp_path / RWLOCK).write_text(text)
    assert running(tmp_path) == []


def test_waiting_ends_and_says_for_whom(tmp_path: Path) -> None:
    said: list[str] = []
    with process(*DVC) as pid:
        note(tmp_path, pid, " ".join(DVC))
        message = rf"`dvc repro` \(process {pid}\) is still running after 0\.6 s of waiting"
        with pytest.raises(InputError, match=message), alone(tmp_path, 0.6, said.append, "it begins"):
            pass
    assert said == [f"Waiting for `dvc repro` (process {pid}) to end; then it begins."]


@pytest.mark.parametrize("program", ["orchestration.configure", "orchestration.reproduce"])
def test_who_is_tired_of_waiting_gets_a_line_and_nothing_has_changed(tmp_path: Path, program: str) -> None:
    params = Path(shutil.copy(ROOT / "params.yaml", tmp_path))
    shutil.copytree(ROOT / "presets", tmp_path / "presets")
    with begun(tmp_path, "a run", 0, print):
        waiting = subprocess.Popen(
            [sys.executable, "-m", program, "seed=7"],
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert waiting.stdout is not None
        assert waiting.stdout.readline().startswith("Waiting for a run (process ")
        waiting.send_signal(signal.SIGINT)
        said, _ = waiting.communicate(timeout=30)
    assert waiting.returncode == 130
    assert said.startswith("params.yaml stays as it was. Interrupted before params.yaml is changed.")
    assert "Traceback" not in said
    assert params.read_text() == (ROOT / "params.yaml").read_text()


def test_one_run_at_a_time_and_a_killed_one_holds_nobody_up(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from contracts.running import begun\n"
        "with begun(Path(sys.argv[1]), 'a run', 0, print): print('in', flush=True); time.sleep(60)"
    )
    other = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert other.stdout is not None
    assert other.stdout.readline() == "in\n"
    message = rf"a run \(process {other.pid}\) is still running\. Wait"
    with pytest.raises(InputError, match=message), begun(tmp_path, "mine", 0, print):
        pass
    other.kill()
    other.communicate()
    with begun(tmp_path, "mine", 0, print):
        assert running(tmp_path) == []  # not ourselves


def clean(root: Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "contracts.running"],
        cwd=root,
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_clean_refuses_while_something_runs_and_never_takes_a_lock_away(tmp_path: Path) -> None:
    (tmp_path / LOCKS).mkdir(parents=True)
    (tmp_path / ".state/simulator").mkdir()
    (tmp_path / "attempts/train").mkdir(parents=True)
    lock = tmp_path / LOCKS / "train.lock"
    code = "import fcntl, os, sys, time; f = open(sys.argv[1], 'w'); fcntl.flock(f, fcntl.LOCK_EX)\n"
    code += "f.write(str(os.getpid())); f.flush(); print('in', flush=True); time.sleep(60)"
    stage = subprocess.Popen([sys.executable, "-c", code, str(lock)], stdout=subprocess.PIPE, text=True)
    assert stage.stdout is not None
    stage.stdout.readline()
    refused = clean(tmp_path)
    assert refused.returncode == 2
    assert refused.stderr.startswith(f"Nothing was removed. train (process {stage.pid}) is still running.")
    assert (tmp_path / ".state/simulator").is_dir()
    stage.kill()
    stage.communicate()
    assert clean(tmp_path).returncode == 0
    assert not (tmp_path / ".state/simulator").exists()
    assert not (tmp_path / "attempts").exists()
    assert lock.exists()


@pytest.mark.parametrize("how", [fcntl.LOCK_EX, fcntl.LOCK_SH])
def test_every_lock_is_of_a_file_that_may_be_read_and_written_as_nfs_asks(tmp_path: Path, how: int) -> None:
    path = tmp_path / "lock"
    with locked(path, how):
        assert modes_of_locks(path) == [os.O_RDWR]
    with held(path, 0, print, "it begins"):
        assert modes_of_locks(path) == [os.O_RDWR]
