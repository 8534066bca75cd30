"""The stage runner, as a program: exit codes, reports by rename, attempts, the lock, the parent's death."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

STAGE = '''
"""A stage of its own for these tests."""
import logging, time
from pathlib import Path
from contracts.errors import CheckFailed, InputError
from contracts.publish import publish
from contracts.stage import Report, main

def run(data: Path, seed: int) -> Report:
    with publish(data, "made") as staging:
        (staging / "made" / "seed").write_text(str(seed))
        mode = Path("mode").read_text()
        logging.getLogger("leitmotif").info("mode %s", mode)
        if mode == "input":
            raise InputError("the log is bad")
        if mode == "check":
            raise CheckFailed("the content is bad")
        if mode == "defect":
            raise KeyError("oops")
        if mode == "slow":
            Path("started").touch()
            time.sleep(60)
    return {"seed": seed}

if __name__ == "__main__":
    main(run)
'''


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    (tmp_path / "params.yaml").write_text((ROOT / "params.yaml").read_text())
    (tmp_path / "toy.py").write_text(STAGE)
    return tmp_path


def _run(repository: Path, mode: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    (repository / "mode").write_text(mode)
    return subprocess.run(
        [sys.executable, "-m", "toy", *arguments],
        cwd=repository,
        env=_env(),
        capture_output=True,
        text=True,
        check=False,
    )


def _env() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(ROOT)}


def test_a_run_leaves_its_outs_report_and_timing(repository: Path) -> None:
    done = _run(repository, "fine")
    assert done.returncode == 0, done.stderr
    reports = repository / "reports" / "simulator"
    assert json.loads((reports / "toy.json").read_text()) == {"seed": 1}
    assert json.loads((reports / "toy.timing.json").read_text())["wall_s"] >= 0
    assert (repository / "data/simulator/made/seed").read_text() == "1"
    assert "mode fine" in done.stderr


@pytest.mark.parametrize(
    ("mode", "code", "message"),
    [("input", 2, "the log is bad"), ("check", 3, "the content is bad"), ("defect", 1, "KeyError: 'oops'")],
)
def test_a_failure_says_one_thing_and_leaves_the_last_good_state(
    repository: Path, mode: str, code: int, message: str
) -> None:
    _run(repository, "fine")
    failed = _run(repository, mode)
    assert failed.returncode == code
    assert message in failed.stderr
    assert "Traceback" not in failed.stderr
    assert (repository / "data/simulator/made/seed").read_text() == "1"
    assert (repository / "reports/simulator/toy.json").exists()
    failure = json.loads((repository / "attempts/toy/failure.json").read_text())
    assert failure["exit_code"] == code
    assert message in failure["message"]
    assert [path.name for path in (repository / "data/simulator").iterdir()] == ["made"]
    assert (repository / "attempts/toy/made").exists() == (mode == "check")


def test_a_success_clears_the_last_attempt(repository: Path) -> None:
    _run(repository, "input")
    _run(repository, "fine")
    assert not (repository / "attempts/toy").exists()


def test_help_prints_what_the_stage_is_and_anything_else_is_refused(repository: Path) -> None:
    helped = _run(repository, "fine", "--help")
    assert helped.returncode == 0
    assert "A stage of its own" in helped.stdout
    assert _run(repository, "fine", "--fast").returncode == 2


def test_a_typo_in_params_stops_before_anything_is_touched(repository: Path) -> None:
    params = repository / "params.yaml"
    params.write_text(params.read_text().replace("num_themes: 12\n  theme", "num_theme: 12\n  theme"))
    failed = _run(repository, "fine")
    assert failed.returncode == 2
    assert "did you mean 'num_themes'" in failed.stderr
    assert not (repository / "data").exists()


def _start_slow(repository: Path) -> subprocess.Popen[str]:
    (repository / "mode").write_text("slow")
    heard = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "  # a shell's `&` turns it off
    run = "import runpy; runpy.run_module('toy', run_name='__main__', alter_sys=True)"
    process = subprocess.Popen(
        [sys.executable, "-c", heard + run], cwd=repository, env=_env(), stderr=subprocess.PIPE, text=True
    )
    while not (repository / "started").exists():
        assert process.poll() is None
        time.sleep(0.02)
    return process


def test_a_second_run_of_the_same_stage_is_refused_while_the_first_runs(repository: Path) -> None:
    first = _start_slow(repository)
    try:
        second = _run(repository, "fine")
        assert second.returncode == 2
        assert f"process {first.pid}" in second.stderr
    finally:
        first.terminate()
        first.communicate()


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_a_killed_run_leaves_nothing_half_written_and_the_next_succeeds(repository: Path, how: signal.Signals) -> None:
    process = _start_slow(repository)
    process.send_signal(how)
    process.communicate()
    assert process.returncode != 0
    assert not (repository / "data/simulator/made").exists()
    assert not (repository / "reports").exists()
    assert _run(repository, "fine").returncode == 0
    assert [path.name for path in (repository / "data/simulator").iterdir()] == ["made"]


@pytest.mark.skipif(sys.platform != "linux", reason="parent-death signals are Linux's")
def test_a_stage_ends_when_its_parent_is_killed(repository: Path) -> None:
    (repository / "mode").write_text("slow")
    launcher = "import subprocess, sys; subprocess.run([sys.executable, '-m', 'toy'])"
    parent = subprocess.Popen([sys.executable, "-c", launcher], cwd=repository, env=_env(), stderr=subprocess.DEVNULL)
    while not (repository / "started").exists():
        time.sleep(0.02)
    stage = int((repository / ".state/locks/toy.lock").read_text())
    parent.kill()
    parent.wait()
    deadline = time.monotonic() + 10
    while Path(f"/proc/{stage}").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not Path(f"/proc/{stage}").exists()
