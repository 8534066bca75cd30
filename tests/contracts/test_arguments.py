"""Every command of the Makefile answers --help with its help, and does nothing."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.clones import ROOT

COMMANDS = sorted(set(re.findall(r"python -m ((?:features|training|serving|orchestration|benchmarks)[\w.]+)",
                                 (ROOT / "Makefile").read_text(encoding="utf-8"))))  # fmt: skip


def asked(command: str, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    whole = [sys.executable, "-m", command, *arguments]
    return subprocess.run(whole, cwd=folder, env=environment, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_is_help(command: str, tmp_path: Path) -> None:
    told = asked(command, tmp_path, "--help")
    assert told.returncode == 0, told.stderr[-2000:]
    assert len(told.stdout) > 40
    assert list(tmp_path.iterdir()) == []


def test_an_argument_that_a_command_does_not_take_is_an_error(tmp_path: Path) -> None:
    told = asked("features.online.load", tmp_path, "--forc")
    assert told.returncode == 2
    assert "Run it by `make load`; it takes no arguments." in told.stdout
