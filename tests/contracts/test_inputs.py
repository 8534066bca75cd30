"""What a stage reads is noted when it begins, and what of it is another afterwards is named; its like is the same."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from contracts.errors import InputError
from contracts.inputs import changes, fill, note_inputs
from contracts.params import read_params

ROOT = Path(__file__).resolve().parents[2]

PIPELINE = """
stages:
  toy:
    cmd: exec python -m toy
    params: [seed, train.epochs, labels]
    deps: ["${source.path}", "live/${source.name}", "big.bin", toy.py]
    outs:
      - data/${source.name}/made: {desc: Made.}
"""

STAGE = '''
"""A stage that is held in its middle."""
import time
from pathlib import Path
import slow
from contracts.publish import publish
from contracts.stage import Report, main

def run(data: Path, seed: int) -> Report:
    with publish(data, "made") as staging:
        Path("started").touch()
        while not Path("go").exists():
            time.sleep(0.01)
        (staging / "made" / "log").write_text(Path("it\'s a log").joinpath("a.csv").read_text())
    return {"seed": seed}

if __name__ == "__main__":
    main(run)
'''


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    params = (ROOT / "params.yaml").read_text()
    params = params.replace("path: features/sources/simulator.py", 'path: "it\'s a log"')
    (tmp_path / "params.yaml").write_text(params)
    (tmp_path / "dvc.yaml").write_text(PIPELINE)
    (tmp_path / ".dvcignore").write_text("__pycache__\n*.pyc\n/live/*/.*\n")
    (tmp_path / "toy.py").write_text(STAGE)
    (tmp_path / "slow.py").write_text("")
    (tmp_path / "it's a log" / "deep").mkdir(parents=True)
    (tmp_path / "it's a log" / "a.csv").write_text("u1,i1\n")
    (tmp_path / "it's a log" / "deep" / "b.csv").write_text("u2,i2\n")
    (tmp_path / "live" / "simulator").mkdir(parents=True)
    (tmp_path / "big.bin").write_bytes(bytes(1 << 20))
    return tmp_path


def noted(repository: Path) -> Any:
    return note_inputs("toy", read_params(repository / "params.yaml"), ["seed"], repository)


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def same_size_and_time(path: Path) -> None:
    was = path.stat()
    path.write_bytes(b"\1" * was.st_size)
    os.utime(path, ns=(was.st_atime_ns, was.st_mtime_ns))


def replaced(path: Path, content: bytes) -> None:
    was = path.stat()
    path.with_name("other").write_bytes(content)
    os.replace(path.with_name("other"), path)
    os.utime(path, ns=(was.st_atime_ns, was.st_mtime_ns))


FORGED = "same size, same time"
CHANGES: Mapping[str, tuple[Callable[[Path], object], str]] = {
    "a parameter": (
        lambda r: edit(r / "params.yaml", "epochs: 2", "epochs: 3"),
        "train.epochs (2 when it began, 3 now)",
    ),
    "a key of a section": (lambda r: edit(r / "params.yaml", "delay_s: 0", "delay_s: 5"), "labels.delay_s (0 when"),
    "params.yaml is no YAML": (lambda r: (r / "params.yaml").write_text("seed: ["), "params.yaml cannot be read"),
    "params.yaml is gone": (lambda r: (r / "params.yaml").unlink(), "params.yaml is not in"),
    "a section is gone": (
        lambda r: edit(r / "params.yaml", "labels:", "lables:"),
        "labels.delay_s (0 when it began, missing",
    ),
    "a row more": (lambda r: (r / "it's a log/a.csv").write_text("u1,i1\nu3,i3\n"), "it's a log/a.csv"),
    FORGED: (lambda r: same_size_and_time(r / "big.bin"), "big.bin"),
    "another file, same time": (lambda r: replaced(r / "big.bin", b"\2" * (1 << 20)), "big.bin"),
    "a file more": (lambda r: (r / "it's a log/deep/c.csv").touch(), "it's a log/deep/c.csv (new)"),
    "a file less": (lambda r: (r / "it's a log/deep/b.csv").unlink(), "it's a log/deep/b.csv (gone)"),
    "the folder is gone": (lambda r: shutil.rmtree(r / "it's a log"), "it's a log/a.csv (gone)"),
    "a sealed file": (
        lambda r: (r / "live/simulator/2026-01-01.parquet").touch(),
        "live/simulator/2026-01-01.parquet (new)",
    ),
    "code": (lambda r: edit(r / "toy.py", "0.01", "0.02"), "toy.py"),
}
NO_CHANGES: Mapping[str, Callable[[Path], object]] = {
    "nothing": lambda r: None,
    "a touch": lambda r: [os.utime(path) for path in (r / "big.bin", r / "toy.py", r / "params.yaml")],
    "an older time": lambda r: os.utime(r / "it's a log/a.csv", (1, 1)),
    "written again alike": lambda r: (r / "it's a log/a.csv").write_text("u1,i1\n"),
    "replaced by its like": lambda r: replaced(r / "big.bin", bytes(1 << 20)),
    "a section that it does not read": lambda r: edit(r / "params.yaml", "num_themes: 12", "num_themes: 7"),
    "a comment": lambda r: edit(r / "params.yaml", "epochs: 2", "epochs: 2  # two"),
    "a file that DVC leaves out": lambda r: (r / "live/simulator/.2026.parquet.7").touch(),
    "a hard link more": lambda r: os.link(r / "big.bin", r / "backup.bin"),
}


# an old file of the same size, inode and time as before is the same to DVC too
@pytest.mark.parametrize(("name", "age_s"), [(n, s) for n in CHANGES for s in (0, 100) if (n, s) != (FORGED, 100)])
def test_what_has_changed_is_named(repository: Path, name: str, age_s: int) -> None:
    for path in (repository / "big.bin", repository / "it's a log" / "a.csv"):
        os.utime(path, (time.time() - age_s,) * 2)
    inputs = noted(repository)
    change, says = CHANGES[name]
    change(repository)
    assert says in "; ".join(changes(inputs, repository))


@pytest.mark.parametrize("name", NO_CHANGES)
def test_what_is_the_same_is_no_change(repository: Path, name: str) -> None:
    inputs = noted(repository)
    NO_CHANGES[name](repository)
    assert changes(inputs, repository) == []


def test_a_link_back_up_is_walked_once(repository: Path) -> None:
    (repository / "it's a log" / "up").symlink_to(repository / "it's a log")
    assert changes(noted(repository), repository) == []


def test_a_name_that_params_do_not_have_is_said() -> None:
    assert fill("data/${ source.name }/x", {"source": {"name": "table"}}) == "data/table/x"
    with pytest.raises(InputError, match=r"dvc.yaml names source.nam, which params.yaml does not have"):
        fill("data/${source.nam}", {"source": {"name": "table"}})


def start(repository: Path, until: str) -> "subprocess.Popen[str]":
    program = [sys.executable, "-m", "toy"]
    stage = subprocess.Popen(
        program, cwd=repository, env=os.environ | {"PYTHONPATH": str(ROOT)}, stderr=subprocess.PIPE, text=True
    )
    while not (repository / until).exists():
        assert stage.poll() is None, stage.communicate()
        time.sleep(0.01)
    return stage


def ended(repository: Path, stage: "subprocess.Popen[str]") -> tuple[int, str]:
    (repository / "go").touch()
    _, said = stage.communicate(timeout=60)
    return stage.returncode, said


@pytest.mark.parametrize("name", ["a parameter", "a row more", "the folder is gone", "code", "params.yaml is no YAML"])
def test_a_stage_whose_inputs_change_does_not_succeed(repository: Path, name: str) -> None:
    stage = start(repository, "started")
    change, says = CHANGES[name]
    change(repository)
    code, said = ended(repository, stage)
    assert code == 2, said
    assert "toy failed: changed while toy ran: " in said
    assert says in said
    assert "Run it again." in said
    assert "Traceback" not in said
    assert not (repository / "reports").exists()
    assert not (repository / "data/simulator/made").exists()
    assert json.loads((repository / "attempts/toy/failure.json").read_text())["exit_code"] == 2
    assert (repository / "attempts/toy/made/made").exists() == (name != "the folder is gone")


def test_a_stage_whose_inputs_are_touched_succeeds(repository: Path) -> None:
    stage = start(repository, "started")
    NO_CHANGES["a touch"](repository)
    assert ended(repository, stage)[0] == 0
    assert json.loads((repository / "reports/simulator/toy.json").read_text()) == {"seed": 1}


def test_code_that_changes_while_a_stage_still_imports_is_not_run(repository: Path) -> None:
    (repository / "slow.py").write_text(
        "import time\nfrom pathlib import Path\nPath('importing').touch()\n"
        "while not Path('go').exists(): time.sleep(0.01)\n"
    )
    stage = start(repository, "importing")
    time.sleep(0.1)  # more than a tick of the clock of file times
    edit(repository / "toy.py", "0.01", "0.02")
    code, said = ended(repository, stage)
    assert code == 2
    assert "toy.py changed while toy was starting. Nothing was written; run it again." in said
    assert not (repository / "started").exists()
