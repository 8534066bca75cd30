"""What a person starts, started: real programs by the README's own words, in a copy of the small pipeline."""

import os
import shlex
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import pytest

from tests.clones import run, surroundings
from tests.prepared import copied, prepared


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone of one's own in which `make run` has run once."""
    return copied(prepared(tmp_path_factory), tmp_path_factory.mktemp("house"))


def typed(
    house: Path, command: str, *words: str, check: bool = True, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run a command line as the README has it, words added to its end. test_readme.py reads these calls."""
    # in a clone of one's own `pip install -e` leads to it; that of the shared environment leads to ours
    return run(house, *shlex.split(command), *words, check=check, **{"PYTHONPATH": str(house)} | environment)


class Started:
    """A started program and its output."""

    def __init__(self, process: "subprocess.Popen[bytes]", log: Path, mark: str) -> None:
        self.process = process
        self._log = log
        self._mark = mark

    @property
    def said(self) -> str:
        """All it has printed."""
        return self._log.read_text(errors="replace")

    def until(self, there: Callable[[], object], seconds: float, every_s: float = 0.2) -> None:
        """Wait until something is true; a program that ends before is a failure."""
        limit = time.monotonic() + seconds
        while True:
            if self.process.poll() is not None:
                pytest.fail(f"it ended with {self.process.returncode}\n{self.said[-4000:]}")
            try:
                if there():
                    return
            except (httpx.TransportError, ConnectionError):
                pass
            if time.monotonic() > limit:
                pytest.fail(f"still not after {seconds} s\n{self.said[-4000:]}")
            time.sleep(every_s)

    def family(self) -> dict[int, str]:
        """Every living process that came of it, wherever it went since: process id and command line."""
        found = {}
        for process in Path("/proc").glob("[0-9]*"):
            try:
                if self._mark.encode() in (process / "environ").read_bytes().split(b"\0"):
                    found[int(process.name)] = (process / "cmdline").read_text().replace("\0", " ").strip()
            except OSError:
                continue  # it ended, or is a zombie
        return {pid: command for pid, command in found.items() if command}

    def gone(self, seconds: float) -> bool:
        """Whether all of it has ended within some seconds."""
        limit = time.monotonic() + seconds
        while self.family():
            if time.monotonic() > limit:
                return False
            time.sleep(0.2)
        return True


@contextmanager
def started(house: Path, command: str, *words: str, **environment: str) -> Iterator[Started]:
    """Start a command line as the README has it; at the end one Ctrl-C must end every process of it."""
    name = f"{shlex.split(command)[1]}-{time.monotonic_ns()}"
    with (house / f"{name}.log").open("w") as output:
        process = subprocess.Popen(
            [*shlex.split(command), *words],
            cwd=house,
            env=surroundings(house) | {"PYTHONPATH": str(house)} | environment | {"DOOR": name},
            stdout=output,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
    program = Started(process, house / f"{name}.log", f"DOOR={name}")
    try:
        yield program
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGINT)
            process.wait(40)
        assert program.gone(20), f"{command} left {program.family()}"
    finally:
        for pid in program.family():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.wait(10)


def free_port() -> int:
    """A free port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
