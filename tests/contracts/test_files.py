"""Files appear whole or not at all; what killed writers left goes, and nothing that is being written."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from contracts.files import remove_left, scratch, write_text, written
from tests.clones import ROOT

WRITER = """
import os, signal, sys
from pathlib import Path
from contracts.files import scratch, written
with {how}(Path(sys.argv[1])) as made:
    (made / "x" if made.is_dir() else made).write_text(sys.argv[2])
    print("there", flush=True)
    sys.stdin.read() or os.kill(os.getpid(), signal.SIGKILL)
"""


def writing(path: Path, how: str = "written", said: str = "of u1") -> subprocess.Popen[str]:
    """A process that is writing this file, until its input ends: then it is killed, or ends well if it was told so."""
    command = [sys.executable, "-c", WRITER.format(how=how), str(path), said]
    process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "there\n"
    return process


def killed(path: Path, how: str = "written", said: str = "of u1") -> None:
    process = writing(path, how, said)
    process.communicate()
    assert process.returncode == -signal.SIGKILL


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_what_a_killed_writer_left_goes_with_the_next_writer(tmp_path: Path) -> None:
    killed(tmp_path / "report.json")
    killed(tmp_path / "other.json")
    assert len(names(tmp_path)) == 2
    write_text(tmp_path / "report.json", "whole")
    left, new = names(tmp_path)
    assert left.startswith(".other.json.")
    assert new == "report.json"


def test_what_a_living_process_writes_is_left_alone_and_gets_its_name(tmp_path: Path) -> None:
    other = writing(tmp_path / "report.json")
    write_text(tmp_path / "report.json", "first")
    being_written = next(path for path in tmp_path.iterdir() if path.name != "report.json")
    assert not remove_left(being_written)
    assert being_written.read_text() == "of u1"
    other.communicate("go on")
    assert other.returncode == 0
    assert names(tmp_path) == ["report.json"]
    assert (tmp_path / "report.json").read_text() == "of u1"


def test_a_folder_that_a_killed_process_left_goes_with_its_file(tmp_path: Path) -> None:
    killed(tmp_path / "replay", "scratch")
    assert len(names(tmp_path)) == 2
    other = writing(tmp_path / "replay", "scratch")
    assert len(names(tmp_path)) == 2
    with scratch(tmp_path / "replay") as folder:
        assert names(folder) == []
        assert len(names(tmp_path)) == 4
    other.communicate("go on")
    assert names(tmp_path) == []


def test_no_other_file_is_taken_for_left(tmp_path: Path) -> None:
    digits = "0123456789abcdef" * 2
    kept = ["report.json", ".report.json", f"report.json.{digits}", f".report.json.{digits[1:]}", f".{digits}"]
    for name in kept:
        (tmp_path / name).touch()
    (tmp_path / f".folder.{digits}").mkdir()
    (tmp_path / f".link.{digits}").symlink_to(tmp_path / "report.json")
    for path in tmp_path.iterdir():
        assert not remove_left(path)
    assert len(names(tmp_path)) == len(kept) + 2


def test_a_writer_that_fails_leaves_what_was_there(tmp_path: Path) -> None:
    write_text(tmp_path / "x", "good")
    with pytest.raises(RuntimeError), written(tmp_path / "x") as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert names(tmp_path) == ["x"]
    assert (tmp_path / "x").read_text() == "good"


def test_writers_that_sweep_at_each_other_s_first_moment_all_write(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from contracts.files import write_text\n"
        "for number in range(300): write_text(Path(sys.argv[1]), 'whole')"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "x")]
    writers = [subprocess.Popen(command, cwd=ROOT, env=os.environ) for _ in range(4)]
    assert [writer.wait(timeout=60) for writer in writers] == [0] * 4
    assert names(tmp_path) == ["x"]
