"""DVC's locks: who holds one, and waiting until it is free. A DVC command of the other door is no reason to fail."""

import fcntl
import json
import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

import psutil

LOOK_S = 0.5
REMIND_S = 60.0
PATIENCE_S = 10.0
"""For how long a file that is being written is looked at again: DVC writes dvc.lock in a fraction of a second."""

_LOCKED = "Unable to acquire lock"  # DVC's words: the repository's lock, held by every command
_BUSY = "is busy, it is being blocked by"  # and its list of readers and writers of a path
_BLOCKER = re.compile(r"\(PID (\d+)\): (.*)")

T = TypeVar("T")


class LockBusy(Exception):
    """dvc.lock or params.yaml is being written this instant."""


class Holder(NamedTuple):
    """Who is in the way."""

    pid: int | None  # None: it has ended, or does not say
    command: str
    path: bool  # it holds a path of the list, rather than the repository

    def __str__(self) -> str:
        return f"process {self.pid} ({self.command})" if self.pid else "another DVC command"


def patiently(read: Callable[[], T]) -> T:
    """Read what DVC may be writing just now, again and again for PATIENCE_S. Raises LockBusy after that."""
    limit = time.monotonic() + PATIENCE_S
    while True:
        try:
            return read()
        except LockBusy:
            if time.monotonic() > limit:
                raise
            time.sleep(LOOK_S / 5)


def holder_of(root: Path, said: Sequence[str]) -> Holder | None:
    """Who kept a DVC command from working, by what it said; None where a lock was not the reason."""
    text = "\n".join(said)
    if _BUSY in text:
        pid, command = next(iter(_BLOCKER.findall(text)), (None, ""))
        return Holder(int(pid) if pid else None, command.strip(), path=True)
    if _LOCKED in text:
        noted = re.search(r"\d+", _read(root / ".dvc" / "tmp" / "lock"))
        pid = int(noted[0]) if noted else None
        return Holder(pid if pid and psutil.pid_exists(pid) else None, _command(pid), path=False)
    return None


def wait_for(root: Path, holder: Holder, say: Callable[[str], None]) -> None:
    """Wait until the holder has let go, and say for whom. Raises LockBusy where it never will."""
    began = time.monotonic()
    say(f"waiting for {holder}, which holds DVC's lock")
    reminded = began
    while _holds(root, holder):
        if holder.path and holder.pid and "dvc" not in _command(holder.pid):
            raise LockBusy(
                f"DVC's list of locks names process {holder.pid} ({holder.command}), but that is now "
                f"{_command(holder.pid) or 'another program'}: DVC was killed. Remove {root / '.dvc/tmp/rwlock'} "
                "and run it again"
            )
        time.sleep(LOOK_S)
        if time.monotonic() - reminded > REMIND_S:
            reminded = time.monotonic()
            say(f"still waiting for {holder}, {reminded - began:,.0f} s")
    say(f"{holder} let go after {time.monotonic() - began:,.0f} s")


def _holds(root: Path, holder: Holder) -> bool:
    if holder.path:
        return bool(holder.pid) and psutil.pid_exists(holder.pid) and holder.pid in _listed(root)
    try:
        with (root / ".dvc" / "tmp" / "lock").open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except FileNotFoundError:
        pass
    return False


def _listed(root: Path) -> set[int]:
    """Processes in DVC's list of readers and writers."""
    try:
        noted = json.loads(_read(root / ".dvc" / "tmp" / "rwlock") or "{}")
    except ValueError:
        return {0}  # being written
    readers = [each for path in noted.get("read", {}).values() for each in path]
    return {int(each["pid"]) for each in [*readers, *noted.get("write", {}).values()] if "pid" in each}


def _command(pid: int | None) -> str:
    try:
        return " ".join(psutil.Process(pid).cmdline())[:120] if pid else ""
    except psutil.Error:
        return ""


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return ""
