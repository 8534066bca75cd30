"""The stage runner: typed params in, `run(...)` once, one report out. Every stage's CLI is this and has no flags."""

import ctypes
import fcntl
import inspect
import logging
import os
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from contracts.errors import CheckFailed, InputError
from contracts.params import load_params
from contracts.publish import write_json

Report = Mapping[str, Any]
"""What a stage says of its work: one flat JSON object."""

LOCKS = Path(".state/locks")
ATTEMPTS = Path("attempts")
REFUSED = ".refused"


class StageBusyError(InputError):
    """The stage is running already."""


def main(run: Callable[..., Report]) -> None:
    """Run one stage as a program and exit: 0 done, 2 bad input, 3 a check blocks, 1 a defect of ours.

    run: takes `data` (the source's folder, data/<source.id>) and sections of params.yaml by name.
    """
    stage = sys.modules["__main__"].__spec__.name.rpartition(".")[2]  # type: ignore[union-attr]
    if len(sys.argv) > 1:
        print(
            f"{inspect.getdoc(sys.modules['__main__'])}\n\nTakes no flags: its parameters are in params.yaml "
            f"({', '.join(parameters(run))}). Run it by `dvc repro {stage}`."
        )
        sys.exit(0 if sys.argv[1:] in (["--help"], ["-h"]) else 2)
    _die_with_parent()
    with _logging() as log:
        sys.exit(_attempt(stage, run, log))


def parameters(run: Callable[..., Report]) -> list[str]:
    """The sections of params.yaml that a stage declares by its signature."""
    return [name for name in inspect.signature(run).parameters if name != "data"]


def _attempt(stage: str, run: Callable[..., Report], log: logging.Logger) -> int:
    began = time.perf_counter()
    source = None
    try:
        sections = load_params()
        source = sections["source"].id
        with _lock(stage):
            shutil.rmtree(ATTEMPTS / stage, ignore_errors=True)
            data = Path("data") / source
            _sweep(data)
            arguments = {name: sections[name] for name in parameters(run)}
            if "data" in inspect.signature(run).parameters:
                arguments["data"] = data
            report = run(**arguments)
            elapsed = time.perf_counter() - began
            write_json(Path("reports") / source / f"{stage}.json", report)
            write_json(Path("reports") / source / f"{stage}.timing.json", {"wall_s": round(elapsed, 3)})
        log.info("%s done in %.1f s", stage, elapsed)
        return 0
    except StageBusyError as error:  # the other run's attempt is not ours to touch
        log.error("%s", error)
        return error.exit_code
    except (InputError, CheckFailed) as error:
        message, code = "\n".join([str(error), *getattr(error, "__notes__", [])]), error.exit_code
    except Exception as error:  # a defect: the person gets one line, the developer the rest
        message, code = f"{type(error).__name__}: {error}", 1
        (ATTEMPTS / stage).mkdir(parents=True, exist_ok=True)
        (ATTEMPTS / stage / "traceback.txt").write_text(traceback.format_exc(), encoding="utf-8")
        message += f" (a defect of ours; see {ATTEMPTS / stage / 'traceback.txt'})"
    log.error("%s failed: %s", stage, message)
    _keep_attempt(stage, source, code, message)
    return code


def _keep_attempt(stage: str, source: str | None, code: int, message: str) -> None:
    attempt = ATTEMPTS / stage
    attempt.mkdir(parents=True, exist_ok=True)
    write_json(attempt / "failure.json", {"stage": stage, "source": source, "exit_code": code, "message": message})
    refused = Path("data") / source / REFUSED if source else None
    if refused and refused.exists():
        os.replace(refused, attempt / "made")


def _sweep(data: Path) -> None:
    """Remove what killed runs left: folders named after a process (publish) that is gone."""
    for pattern in (".staging-*", ".trash-*"):
        for left in data.glob(pattern):
            if not Path("/proc", left.name.split("-")[1]).exists():
                shutil.rmtree(left, ignore_errors=True)


@contextmanager
def _lock(stage: str) -> Iterator[None]:
    LOCKS.mkdir(parents=True, exist_ok=True)
    with (LOCKS / f"{stage}.lock").open("a+") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            handle.seek(0)
            raise StageBusyError(
                f"Another {stage} is running (process {handle.read().strip()}). Wait for it or end it, then run again."
            ) from None
        handle.truncate(0)
        handle.write(str(os.getpid()))
        handle.flush()
        yield


def _die_with_parent() -> None:
    """Ask Linux for SIGTERM when the parent ends: killing DVC must not orphan its stage."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    if sys.platform == "linux":
        pr_set_pdeathsig, parent = 1, os.getppid()
        ctypes.CDLL(None, use_errno=True).prctl(pr_set_pdeathsig, signal.SIGTERM)
        if os.getppid() != parent:  # it ended meanwhile: the signal will not come
            sys.exit(128 + signal.SIGTERM)


@contextmanager
def _logging() -> Iterator[logging.Logger]:
    """Logs go to stderr and, where Dagster launched us, to its event log."""
    log = logging.getLogger("leitmotif")
    log.setLevel(logging.INFO)
    log.propagate = False
    console = logging.StreamHandler()
    console.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    log.addHandler(console)
    if "DAGSTER_PIPES_CONTEXT" not in os.environ:
        yield log
        return
    from dagster_pipes import open_dagster_pipes

    with open_dagster_pipes() as pipes:
        log.addHandler(_PipesHandler(pipes))
        yield log


class _PipesHandler(logging.Handler):
    def __init__(self, pipes: Any) -> None:
        super().__init__()
        self._pipes = pipes

    def emit(self, record: logging.LogRecord) -> None:
        level = record.levelname.lower()
        getattr(self._pipes.log, level if level in ("warning", "error") else "info")(record.getMessage())
