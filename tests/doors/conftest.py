"""What a person starts, started: real programs by the README's own words, in a copy of the small pipeline."""

import os
import shlex
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import psutil
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
    """Run a command line as the README has it; words are added to its end. tests/doors/test_readme.py reads the calls."""
    return run(house, *shlex.split(command), *words, check=check, **environment)


class Started:
    """A program that was started, and what it has said."""

    def __init__(self, process: "subprocess.Popen[bytes]", log: Path) -> None:
        self.process = process
        self._log = log

    @property
    def said(self) -> str:
        """All it has printed."""
        return self._log.read_text(errors="replace")

    def until(self, there: Callable[[], object], seconds: float) -> None:
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
            time.sleep(0.2)


@contextmanager
def started(house: Path, command: str, *words: str, **environment: str) -> Iterator[Started]:
    """Start a command line as the README has it; at the end one Ctrl-C must end every process of it."""
    log = house / f"{shlex.split(command)[1]}-{time.monotonic_ns()}.log"
    with log.open("w") as output:
        process = subprocess.Popen(
            [*shlex.split(command), *words],
            cwd=house,
            env=surroundings(house) | environment,
            stdout=output,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
    try:
        yield Started(process, log)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGINT)
        try:
            process.wait(40)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            raise
        finally:
            left = leftover(house)
            for each in left:
                each.kill()
        assert not left, f"{command} left {[' '.join(each.cmdline()) for each in left]}"


def leftover(house: Path, seconds: float = 0) -> list[psutil.Process]:
    """Living processes that work in a repository, once they have had some seconds to end."""
    limit = time.monotonic() + seconds
    while True:
        found = []
        for each in psutil.process_iter():
            try:
                if each.status() != psutil.STATUS_ZOMBIE and Path(each.cwd()).is_relative_to(house):
                    found.append(each)
            except psutil.Error:
                continue
        if not found or time.monotonic() > limit:
            return found
        time.sleep(0.1)


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
