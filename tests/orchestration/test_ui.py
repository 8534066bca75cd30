"""What `make ui` starts ends with it, over a program in Dagster's place that waits."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.orchestration.test_door import ROOT, all_end, free_port

DAGSTER = f"#!{sys.executable}\nimport os, time\nprint('dagster', os.getpid(), flush=True)\ntime.sleep(60)\n"


@pytest.mark.skipif(sys.platform != "linux", reason="Linux tells a process of its parent's end")
def test_killed_by_itself_it_leaves_no_dagster(tmp_path: Path) -> None:
    program = tmp_path / "dagster"
    program.write_text(DAGSTER)
    program.chmod(0o755)
    environment = os.environ | {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "orchestration.ui", "--port", str(free_port())]
    with subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True) as ui:
        assert ui.stdout is not None
        (pid,) = [int(line.split()[1]) for _ in range(2) if (line := ui.stdout.readline()).startswith("dagster")]
        try:
            os.kill(ui.pid, signal.SIGKILL)
            assert all_end([pid])
        finally:
            if not all_end([pid], 0):
                os.kill(pid, signal.SIGKILL)
