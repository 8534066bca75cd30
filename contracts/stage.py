"""The stage runner: typed params in, `run(...)` once, one report out. It is the CLI of every stage and has no flags."""

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
from contracts.figures import write_figures
from contracts.files import is_full
from contracts.inputs import Inputs, changes, check_modules, note_inputs, said
from contracts.known_hashes import remembering
from contracts.params import check_params, read_params
from contracts.parent import end_with_parent
from contracts.publish import no_room, write_json, write_report
from contracts.running import LOCKS, take, written_by

Report = Mapping[str, Any]
"""A stage's report on its work: one flat JSON object."""

ATTEMPTS = Path("attempts")
REFUSED = ".refused"
REASON = "LEITMOTIF_REASON"
"""Environment variable: a file to which the reason of a stage's failure is written for the program that ran DVC."""
BESIDE = ("data", "engine")
"""Arguments of a stage that are no params of it: where its data lies, and what runs it, which changes no byte."""
LOCK_S = 1.0
"""How long to try for the lock: another process may take it for a moment to test whether it is free."""


class StageBusyError(InputError):
    """The stage is running already."""


def main(run: Callable[..., Report], *, several: bool = False) -> None:
    """Run one stage as a program and exit: 0 done, 2 bad input, 3 a check blocks, 1 a defect of ours.

    run: takes `data` (the source's folder, data/<source.id>) and sections of params.yaml by name; of these `engine` is
        no param in dvc.yaml. several: several processes may run it together (torchrun, which sets RANK); the first one
        alone locks, reports and keeps attempts.
    """
    stage = sys.modules["__main__"].__spec__.name.rpartition(".")[2]  # type: ignore[union-attr]
    if len(sys.argv) > 1:
        print(
            f"{inspect.getdoc(sys.modules['__main__'])}\n\nTakes no flags: its parameters are in params.yaml "
            f"({', '.join(parameters(run))}). Run it by `dvc repro {stage}`."
        )
        sys.exit(0 if sys.argv[1:] in (["--help"], ["-h"]) else 2)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    end_with_parent()  # killing DVC must not orphan its stage
    with _logging() as log:
        rank = int(os.environ.get("RANK", "0")) if several else 0
        sys.exit(_follow(stage, run, log, rank) if rank else _attempt(stage, run, log))


def parameters(run: Callable[..., Report]) -> list[str]:
    """The sections of params.yaml that a stage declares by its signature, and that its outputs depend on."""
    return [name for name in inspect.signature(run).parameters if name not in BESIDE]


def _attempt(stage: str, run: Callable[..., Report], log: logging.Logger) -> int:
    began = time.perf_counter()
    source = inputs = None
    try:
        raw = read_params()
        sections = check_params(raw)
        source = sections["source"].id
        with _lock(stage), remembering():
            shutil.rmtree(ATTEMPTS / stage, ignore_errors=True)
            inputs = note_inputs(stage, raw, parameters(run))
            check_modules(stage, inputs)
            _check_begun(inputs, source)
            data = Path("data") / source
            _sweep(data)
            report = run(**_arguments(run, sections))
            _check_unchanged(stage, inputs, data)
            elapsed = time.perf_counter() - began
            _write_reports(Path("reports") / source, stage, report, elapsed, inputs)
        log.info("%s done in %.1f s", stage, elapsed)
        return 0
    except StageBusyError as error:  # attempts/ belongs to the other run
        _tell(log, stage, source, error.exit_code, str(error))
        return error.exit_code
    except (InputError, CheckFailed) as error:
        message, code = "\n".join([str(error), *getattr(error, "__notes__", [])]), error.exit_code
    except Exception as error:
        message, code = _explain(stage, error, inputs)
    _tell(log, stage, source, code, message)
    _keep_attempt(stage, source, code, message)
    return code


def _follow(stage: str, run: Callable[..., Report], log: logging.Logger, rank: int) -> int:
    """Run the stage as a process that is not the first: it makes nothing, and logs no more than what went wrong."""
    log.setLevel(logging.WARNING)
    try:
        run(**_arguments(run, check_params(read_params())))
        return 0
    except (InputError, CheckFailed) as error:
        log.error("%s, process %d, failed: %s", stage, rank, error)
        return error.exit_code
    except Exception:
        log.exception("%s, process %d, failed (a defect of ours)", stage, rank)
        return 1


def _arguments(run: Callable[..., Report], sections: Mapping[str, Any]) -> dict[str, Any]:
    known = {**sections, "data": Path("data") / sections["source"].id}
    return {name: known[name] for name in inspect.signature(run).parameters}


def _explain(stage: str, error: Exception, inputs: Inputs | None) -> tuple[str, int]:
    """The message and exit code of a stage that raised: a defect, unless its inputs changed while it ran."""
    if is_full(error):
        return no_room(Path(), error), InputError.exit_code
    said_so = f"{type(error).__name__}: {error}"
    if inputs and (found := changes(inputs)):
        return f"{said(stage, found)} (It ended with {said_so})", InputError.exit_code
    (ATTEMPTS / stage).mkdir(parents=True, exist_ok=True)  # the person gets one line, the developer the rest
    (ATTEMPTS / stage / "traceback.txt").write_text(traceback.format_exc(), encoding="utf-8")
    return f"{said_so} (a defect of ours; see {ATTEMPTS / stage / 'traceback.txt'})", 1


def _check_begun(inputs: Inputs, source: str) -> None:
    """Refuse if params.yaml names another source than when DVC began and took its paths from it."""
    mine = {Path(out).resolve() for out in inputs.outs}
    written = written_by(os.getppid(), Path())
    if mine and written and not mine & written:
        raise InputError(
            f"params.yaml names the source {source} now, but DVC began this run for another "
            f"({', '.join(sorted({path.parent.name for path in written}))}). Nothing was written; run it again."
        )


def _check_unchanged(stage: str, inputs: Inputs, data: Path) -> None:
    """If inputs changed meanwhile, fail and move the outputs aside: DVC would record inputs that were not read."""
    found = changes(inputs)
    if not found:
        return
    shutil.rmtree(data / REFUSED, ignore_errors=True)
    for out in map(Path, inputs.outs):
        if out.exists():
            (data / REFUSED).mkdir(parents=True, exist_ok=True)
            os.replace(out, data / REFUSED / out.name)
    raise InputError(f"{said(stage, found)} What it made is in {ATTEMPTS / stage / 'made'}.")


def _write_reports(folder: Path, stage: str, report: Report, elapsed: float, inputs: Inputs) -> None:
    written = write_report(folder / f"{stage}.json", report)
    write_figures(folder / "figures" / f"{stage}.json", stage, report)
    # of: digest of the report that this timing belongs to; a report from the cache has another timing
    timing = {"wall_s": round(elapsed, 3), "of": written, "read": inputs.read()}
    write_json(folder / f"{stage}.timing.json", timing)


def _tell(log: logging.Logger, stage: str, source: str | None, code: int, message: str) -> None:
    """Report once why a stage failed: to the caller's file if there is one, else to the log."""
    if place := os.environ.get(REASON):
        write_json(Path(place), {"stage": stage, "source": source, "exit_code": code, "message": message})
    else:
        log.error("%s failed: %s", stage, message)


def _keep_attempt(stage: str, source: str | None, code: int, message: str) -> None:
    attempt = ATTEMPTS / stage
    attempt.mkdir(parents=True, exist_ok=True)
    write_json(attempt / "failure.json", {"stage": stage, "source": source, "exit_code": code, "message": message})
    refused = Path("data") / source / REFUSED if source else None
    if refused and refused.exists():
        os.replace(refused, attempt / "made")


def _sweep(data: Path) -> None:
    """Remove what killed runs left: staging folders (publish) named after a process that has ended."""
    for pattern in (".staging-*", ".trash-*"):
        for left in data.glob(pattern):
            if not Path("/proc", left.name.split("-")[1]).exists():
                shutil.rmtree(left, ignore_errors=True)


@contextmanager
def _lock(stage: str) -> Iterator[None]:
    LOCKS.mkdir(parents=True, exist_ok=True)
    with (LOCKS / f"{stage}.lock").open("a+") as handle:
        deadline = time.monotonic() + LOCK_S
        while not take(handle.fileno()):
            if time.monotonic() > deadline:
                handle.seek(0)
                who = handle.read().strip()
                raise StageBusyError(
                    f"Another {stage} is running (process {who}). Wait for it or end it, then run again."
                )
            time.sleep(0.05)
        handle.truncate(0)
        handle.write(str(os.getpid()))
        handle.flush()
        yield


@contextmanager
def _logging() -> Iterator[logging.Logger]:
    """Log to stderr and, if Dagster launched this process, to its event log."""
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
