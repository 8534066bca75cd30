"""Run stages by `dvc repro` and report on each output. A failed or interrupted stage keeps its last good output."""

import json
import re
import shutil
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from contracts.errors import InputError
from contracts.files import in_temp, scratch
from contracts.params import load_params
from contracts.running import begun, running, waited
from contracts.stage import REASON
from orchestration.dvc_lock import LockBusy
from orchestration.graph import read_graph
from orchestration.group import run_group, undisturbed
from orchestration.stale import clear_stale
from orchestration.unrecorded import unrecorded
from orchestration.versions import read_made

DVC = (sys.executable, "-m", "dvc")
_FATES = {
    re.compile(r"^Running stage '(.+)':$"): "ran",
    re.compile(r"^Stage '(.+)' didn't change, skipping$"): "unchanged",
    re.compile(r"^Stage '(.+)' is cached - skipping run, checking out outputs$"): "from cache",
}
_NOTED = re.compile(r"^(Generating|Updating) lock file ")
_FAILED = re.compile(r"failed to reproduce '(.+?)'")
_BUSY = re.compile(r"is busy, it is being blocked by:|Unable to acquire lock")
_KILLED = re.compile(r"exited with -(\d+)$")
_DEFECT = 1
_TRIES = 10  # one more for each DVC command that comes between
WAIT_S = 86_400.0
"""How long an unattended run (Dagster's) waits for another one to end."""


@dataclass(frozen=True)
class Reason:
    """Why a stage did not write its outputs."""

    stage: str | None  # None: DVC could not even begin
    message: str
    exit_code: int  # 2 bad input, 3 a check blocks, 1 anything else


@dataclass
class Attempt:
    """The result of one `dvc repro`."""

    fates: dict[str, str] = field(default_factory=dict)  # stage -> ran | unchanged | from cache
    current: str | None = None  # the stage at work, whose outs DVC has not noted yet
    reason: Reason | None = None
    restored: bool | None = (
        None  # whether the failed stage's last good outs are back; None: it had none, or none failed
    )


def repro(
    root: Path,
    stages: Sequence[str] = (),
    *,
    single: bool = False,
    force: bool = False,
    say: Callable[[str], None],
    tell: Callable[[str], None] | None = None,
    env: Mapping[str, str] | None = None,
    wait_s: float = WAIT_S,
) -> Attempt:
    """Run `dvc repro`; restore the outputs of a stage that failed or was interrupted, and say why.

    stages: none means all. single: these stages only, not what they depend on. force: even where nothing changed.
    say: called with every line that DVC and the stages print; tell, if given: with the process that we wait for.
    wait_s: how long to wait for another run, stage or DVC command.
    """
    try:
        with begun(root, "a run of the pipeline", wait_s, tell or say):
            arguments = [*(["--single-item"] if single else []), *(["--force"] if force else []), *stages]
            again = [] if force else _again(root, stages if single else (), say)
            commands = [*again, arguments]
            return _repro(root, commands, say, env or {}, lambda: waited(root, wait_s, tell or say, "the run goes on"))
    except InputError as error:
        return Attempt(reason=Reason(None, str(error), error.exit_code))


def _repro(
    root: Path, commands: list[list[str]], say: Callable[[str], None], env: Mapping[str, str], wait: Callable[[], None]
) -> Attempt:
    """commands: the arguments of each `dvc repro`, run in turn until one fails."""
    attempt, said, status = Attempt(), [], 0

    def listen(line: str) -> None:
        said.append(line)
        _follow(attempt, line)
        say(line)

    with scratch(in_temp("run")) as folder:
        told = folder / "reason.json"
        try:
            for own in commands:
                command, given = [*DVC, "repro", *own], {**env, REASON: str(told)}
                run = partial(run_group, command, cwd=root, say=listen, env=given)
                if status := _patient(run, root, said, wait):
                    break
        except BaseException:
            with undisturbed():
                restore(root, attempt.current, say)
            raise
        _forget_seconds(root, attempt)
        if status:
            attempt.reason = _explain(root, attempt, said, status, told)
            attempt.restored = restore(root, attempt.reason.stage, say)
    return attempt


def _again(root: Path, among: Sequence[str], say: Callable[[str], None]) -> list[list[str]]:
    """Arguments of `dvc repro` for stages that DVC takes for unchanged though they have not read all of their input.

    among: only these stages; none means all.
    """
    try:
        found = unrecorded(read_graph(root))
    except (InputError, LockBusy):  # `dvc repro` says so
        return []
    wanted = {stage: deps for stage, deps in found.items() if not among or stage in among}
    for stage, deps in wanted.items():
        say(f"{', '.join(deps)} changed when {stage} had read it, and DVC recorded it as read: {stage} runs again.")
    return [["--single-item", "--force", stage] for stage in wanted]


def _patient(run: Callable[[], int], root: Path, said: list[str], wait: Callable[[], None]) -> int:
    """Run a DVC command, again if another DVC command held the lock; returns its exit status."""
    status = 0
    for _ in range(_TRIES):
        said.clear()
        clear_stale(root)
        status = run()
        if not status or not any(_BUSY.search(line) for line in said):
            break
        wait()
    return status


def _follow(attempt: Attempt, line: str) -> None:
    """What a line of DVC's output says about the running stage. A stage is done once DVC has written it to dvc.lock."""
    for pattern, fate in _FATES.items():
        if match := pattern.match(line):
            if attempt.fates.get(match[1]) in (None, "unchanged"):  # done before a wait, it is unchanged after it
                attempt.fates[match[1]] = fate
            attempt.current = None if fate == "unchanged" else match[1]
    if _NOTED.match(line):
        attempt.current = None


def restore(root: Path, stage: str | None, say: Callable[[str], None]) -> bool | None:
    """Restore the last good outputs of a stage; whether that worked, None if there are none."""
    if stage is None or not _was_made(root, stage):
        return None
    said: list[str] = []
    status = run_group([*DVC, "checkout", "--force", stage], cwd=root, say=said.append)
    if status:
        say(f"The last good output of {stage} could not be restored: {' '.join(said)} Try: dvc pull {stage}")
    _restore_report(root, stage)
    return not status


def _restore_report(root: Path, stage: str) -> None:
    """`dvc checkout` skips what git tracks (`cache: false`), but the run cache holds the report."""
    from dvc.repo import Repo

    with Repo(str(root)) as repo:
        outs = [
            out
            for each in repo.stage.load_all(str(root / "dvc.yaml"))
            if getattr(each, "name", None) == stage
            for out in each.outs
        ]
        for out in outs:
            version = out.hash_info.value if out.hash_info else None
            if out.use_cache or version is None or Path(out.fs_path).exists():
                continue
            if repo.cache.local.exists(version):
                Path(out.fs_path).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(repo.cache.local.oid_to_path(version), out.fs_path)


def _forget_seconds(root: Path, attempt: Attempt) -> None:
    """A stage restored from the run cache took no time; the seconds stored there are those of another run."""
    if "from cache" not in attempt.fates.values():
        return
    for stage in read_graph(root).stages:
        if stage.report and attempt.fates.get(stage.name) == "from cache":
            (root / stage.report).with_suffix(".timing.json").unlink(missing_ok=True)


def _was_made(root: Path, stage: str) -> bool:
    """Whether dvc.lock holds these outputs: after a switch of source it may still hold those of another source."""
    return any(made.stage.name == stage for made in read_made(read_graph(root)))


def _explain(root: Path, attempt: Attempt, said: list[str], status: int, told: Path) -> Reason:
    """Why `dvc repro` failed: the stage's message, else how DVC ended, else DVC's message."""
    named = [match[1] for line in said if (match := _FAILED.search(line))]
    stage = named[-1] if named else attempt.current
    if told.is_file():
        failure = json.loads(told.read_text(encoding="utf-8"))
        return Reason(failure["stage"], failure["message"], failure["exit_code"])
    if status < 0:
        when = f"while {stage} ran" if stage else "between two stages"
        return Reason(stage, f"DVC was killed ({_signal(-status)}) {when}. Run it again to go on.", _DEFECT)
    errors = _errors(said)
    if any(_BUSY.search(error) for error in errors):
        who = ", ".join(map(str, running(root)))
        message = f"{who} is at work. Wait until it has ended, or end it; then run again." if who else " ".join(errors)
        return Reason(stage, message, InputError.exit_code)
    if unusable := _unusable(root):
        return Reason(stage, unusable, InputError.exit_code)
    if stage and errors and (match := _KILLED.search(errors[-1])):
        why = f"{_signal(int(match[1]))}; where nobody did that, memory ran out"
        return Reason(stage, f"it was killed ({why}). Run it again to go on.", _DEFECT)
    return Reason(stage, " ".join(errors or said[-3:] or ["dvc repro failed without a word."]), _DEFECT)


def _errors(said: list[str]) -> list[str]:
    """What DVC says after ERROR, with the lines that belong to it."""
    errors: list[str] = []
    goes_on = False
    for line in said:
        if line.startswith("ERROR: "):
            errors.append(line.removeprefix("ERROR: "))
        elif goes_on and line.strip():
            errors[-1] += f" {line.strip()}"
        goes_on = bool(line.strip()) and (goes_on or line.startswith("ERROR: "))
    return errors


def _signal(number: int) -> str:
    return signal.Signals(number).name if number in set(signal.Signals) else f"signal {number}"


def _unusable(root: Path) -> str | None:
    """Why DVC could not begin. Its own message names neither a bad parameter nor a missing log clearly."""
    try:
        path = (root / load_params(root / "params.yaml")["source"].path).resolve()
    except InputError as error:
        return str(error)
    read = {(root / file).resolve() for stage in read_graph(root).stages for file in stage.files}
    if path not in read or path.exists():
        return None
    return f"source.path: {path} does not exist. Say where the log lies: make run SOURCE=... DATA=<path>."
