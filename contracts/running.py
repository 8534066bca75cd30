"""Which processes work in the repository, from the locks of stages and DVC; waiting for them; `make clean`.

A stage holds .state/locks/<stage>.lock while it runs; the kernel releases it however the process ends. DVC records in
.dvc/tmp/rwlock which of its processes reads and writes what; an entry left by a killed process may name a process id
that another program has by now. Standard library only: `make clean` runs without the project's environment.
"""

import fcntl
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from contracts.errors import InputError, Interrupted

LOCKS = Path(".state/locks")
DVC_LOCK = Path(".dvc/tmp/lock")  # held by a DVC command, but not while it runs a stage
RWLOCK = Path(".dvc/tmp/rwlock")
CHANGING = "changing"  # the lock of who changes params.yaml
RUN = "run"  # the lock of a whole run, through all its stages
POLL_S = 0.5
SAY_AGAIN_S = 30.0


@dataclass(frozen=True)
class Running:
    """One process that is working in the repository."""

    what: str
    pid: int

    def __str__(self) -> str:
        return f"{self.what} (process {self.pid})" if self.pid else self.what


def running(root: Path = Path()) -> list[Running]:
    """Every stage, DVC command and writer of live events that works in the repository at root, without this process."""
    locks = sorted((root / LOCKS).glob("*.lock"), key=lambda path: (path.stem != RUN, path.name))  # a whole run first
    found = [_holder(path) for path in locks if path.stem != CHANGING and _is_held(path)]
    found += [_of(one) for one in _of_dvc(root)]
    if (root / DVC_LOCK).exists() and _is_held(root / DVC_LOCK):
        found.append(Running("a DVC command", _holder(root / DVC_LOCK).pid))
    return list({one.pid: one for one in reversed(found) if one.pid != os.getpid()}.values())[::-1]


def reader_of(path: Path, root: Path) -> Running | None:
    """The DVC process whose running stage reads this file or folder; None if there is none."""
    for one in _of_dvc(root, "read"):
        if one["path"] == str(path.resolve()):
            return _of(one)
    return None


def written_by(pid: int, root: Path) -> set[Path]:
    """The paths that the DVC process with this id has recorded as written by it."""
    return {Path(one["path"]).resolve() for one in _of_dvc(root, "write") if one["pid"] == pid}


def is_living(noted: Mapping[str, Any], written_at: float) -> bool:
    """Whether the process that DVC recorded ({pid, cmd}) still runs. Its id may belong to another program by now.

    written_at: when the record was last written, in seconds; its process began earlier.
    """
    process = Path("/proc", str(noted["pid"]))
    if not Path("/proc/self/stat").exists():
        return _exists(int(noted["pid"]))
    try:
        state, *rest = (process / "stat").read_text().rpartition(")")[2].split()
        words = (process / "cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return False
    age_s = time.clock_gettime(time.CLOCK_BOOTTIME) - int(rest[18]) / os.sysconf("SC_CLK_TCK")
    return state not in "ZX" and time.time() - age_s <= written_at + 1 and _is_of(words, noted["cmd"])


def waited(root: Path, wait_s: float, say: Callable[[str], None], then: str) -> None:
    """Wait until no other process works here, saying for which. Raises InputError after wait_s.

    then: what will be done afterwards, for the message.
    """
    _wait(lambda: next(iter(running(root)), None), wait_s, say, then)


def wait_for_reader(path: Path, root: Path, wait_s: float) -> None:
    """Wait until no DVC process reads this file or folder, saying for which. Raises InputError after wait_s."""
    _wait(lambda: reader_of(path, root), wait_s, _say, f"{path} is changed")


@contextmanager
def alone(root: Path, wait_s: float, say: Callable[[str], None], then: str) -> Iterator[None]:
    """Hold the exclusive right to change params.yaml or the mutable state, while no other process works here."""
    with held(root / LOCKS / f"{CHANGING}.lock", wait_s, say, then):
        waited(root, wait_s, say, then)
        yield


@contextmanager
def begun(root: Path, what: str, wait_s: float, say: Callable[[str], None]) -> Iterator[None]:
    """Hold the right to run: one run at a time, and none beside a DVC command or stage that was started elsewhere."""
    with held(root / LOCKS / f"{RUN}.lock", wait_s, say, f"{what} begins", what):
        waited(root, wait_s, say, f"{what} begins")
        yield


@contextmanager
def held(path: Path, wait_s: float, say: Callable[[str], None], then: str, what: str = "") -> Iterator[None]:
    """Hold a lock of .state/locks; the file names the program and this process for those who wait."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as handle:
        _wait(lambda: None if take(handle.fileno()) else _holder(path), wait_s, say, then)
        handle.truncate(0)
        handle.write(f"{os.getpid()} {what}")
        handle.flush()
        yield


def take(handle: int) -> bool:
    """Take an open file's lock if it is free; whether it was."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def main() -> None:
    """`make clean`: remove .state and attempts unless a process works here; the lock files stay."""
    root = Path.cwd()
    try:
        with alone(root, 0, print, "the mutable state is removed"):
            for path in (*(root / ".state").glob("*"), root / "attempts"):
                if path != root / LOCKS:
                    shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink(missing_ok=True)
    except InputError as error:
        print(f"Nothing was removed. {error}", file=sys.stderr)
        sys.exit(error.exit_code)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _wait(who: Callable[[], Running | None], wait_s: float, say: Callable[[str], None], then: str) -> None:
    try:
        _wait_for(who, wait_s, say, then)
    except KeyboardInterrupt as error:  # whoever waits has begun nothing
        raise Interrupted(f"Interrupted before {then}.") from error


def _wait_for(who: Callable[[], Running | None], wait_s: float, say: Callable[[str], None], then: str) -> None:
    began, told = time.monotonic(), -SAY_AGAIN_S
    while (one := who()) is not None:
        now = time.monotonic()
        if now - began >= wait_s:
            waiting = f" after {wait_s:g} s of waiting" if wait_s else ""
            raise InputError(f"{one} is still running{waiting}. Wait until it has ended, or end it; then try again.")
        if now - told >= SAY_AGAIN_S:
            say(f"Waiting for {one} to end; then {then}.")
            told = now
        time.sleep(POLL_S)


def _is_held(path: Path) -> bool:
    """Whoever takes a lock in the instant in which this looks tries again: the runner, DVC."""
    with path.open("a+") as handle:
        return not take(handle.fileno())


def _of(noted: Mapping[str, Any]) -> Running:
    return Running(f"`{_short(noted['cmd'])}`", noted["pid"])


def _holder(path: Path) -> Running:
    pid, _, what = path.read_text(encoding="utf-8").strip().partition(" ")
    return Running(what or path.stem, int(pid) if pid.isdigit() else 0)


def _of_dvc(root: Path, *modes: str) -> Iterator[dict[str, Any]]:
    """What running DVC processes have recorded: {pid, cmd, path}."""
    path = root / RWLOCK
    try:
        noted, written_at = json.loads(path.read_text(encoding="utf-8")), path.stat().st_mtime
    except (OSError, ValueError):  # DVC writes it in place: half written, it is being taken or given back
        return
    if not isinstance(noted, dict):
        return
    for mode in modes or ("write", "read"):
        for where, infos in noted.get(mode, {}).items():
            for info in infos if isinstance(infos, list) else [infos]:
                if info and is_living(info, written_at):
                    yield {**info, "path": where}


def _is_of(words: Sequence[str], cmd: str) -> bool:
    """Is this the command line of what DVC noted: " ".join(sys.argv)? Of `python -m dvc` that begins with a path."""
    first, _, rest = cmd.partition(" ")
    program = Path(first).parent.name if Path(first).name == "__main__.py" else Path(first).stem
    return " ".join(words).rstrip().endswith(rest) and any(program in word for word in words)


def _short(cmd: str) -> str:
    """`dvc repro` of /somewhere/bin/dvc repro and of /somewhere/dvc/__main__.py repro."""
    program, _, words = cmd.partition("/dvc/__main__.py") if "/dvc/__main__.py" in cmd else cmd.partition("/dvc ")
    return f"dvc {words.strip()}".strip() if program != cmd else cmd


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


if __name__ == "__main__":
    main()
