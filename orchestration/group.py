"""Run a command in a process group of its own that never outlives the caller; returns its exit status.

DVC ignores Ctrl-C while a stage runs, and killing DVC orphans the stage. So the whole group is signalled, and reaped
before the repository is touched again.
"""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from contracts import parent

ESCALATION = ((signal.SIGINT, 8.0), (signal.SIGTERM, 8.0), (signal.SIGKILL, 8.0))
"""The signals sent to the group, and how many seconds to wait after each."""


def run_group(
    command: Sequence[str], *, cwd: Path, say: Callable[[str], None], env: Mapping[str, str] | None = None
) -> int:
    """Run command to its end and return its exit status; every line it prints is passed to say.

    env: added to this process's environment.
    An exception meanwhile (Ctrl-C, Dagster's interrupt) ends the whole group first and is then raised again.
    """
    process = subprocess.Popen(
        [sys.executable, "-I", "-S", parent.__file__, str(os.getpid()), *command],
        cwd=cwd,
        env=_environment(env or {}),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        text=True,
        errors="replace",
    )
    assert process.stdout is not None
    try:
        for line in process.stdout:
            say(line.rstrip("\n"))
        return process.wait()
    finally:
        with undisturbed():
            end_group(process)
            process.stdout.close()


def end_group(process: "subprocess.Popen[str]", escalation: Sequence[tuple[int, float]] = ESCALATION) -> None:
    """End every process of the group that process leads, and reap the leader. Nothing happens where all have ended."""
    for number, patience_s in escalation:
        if process.poll() is not None and not _living(process.pid):
            return
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        deadline = time.monotonic() + patience_s
        while time.monotonic() < deadline and (process.poll() is None or _living(process.pid)):
            time.sleep(0.02)
    process.wait()


@contextmanager
def undisturbed() -> Iterator[None]:
    """Ignore Ctrl-C, SIGTERM and SIGHUP while something must be finished. Only the main thread receives them."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, signal.SIG_IGN) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _environment(added: Mapping[str, str]) -> dict[str, str]:
    """The environment with this interpreter's folder first on PATH, so that a stage's `python` is this one."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    return {**os.environ, "DVC_NO_ANALYTICS": "1", "PATH": path, **added}


def _living(group: int) -> bool:
    """Whether a process of this group still runs. Zombies do not count: their parent may never reap them."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    proc = Path("/proc")
    if not (proc / "self" / "stat").exists():
        return True
    for stat in proc.glob("[0-9]*/stat"):
        try:
            state, _, pgrp = stat.read_text().rpartition(")")[2].split()[:3]
        except OSError:
            continue  # it ended while we looked
        if int(pgrp) == group and state not in "ZX":
            return True
    return False
