"""Stages in, `dvc repro` run, what became of each out. After a failure or an interrupt the last good output stands."""

import json
import re
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from contracts.errors import InputError
from contracts.params import load_params
from orchestration.dvc_lock import holder_of, wait_for
from orchestration.graph import read_graph
from orchestration.group import run_group, undisturbed
from orchestration.versions import read_made

DVC = (sys.executable, "-m", "dvc")
_FATES = {
    re.compile(r"^Running stage '(.+)':$"): "ran",
    re.compile(r"^Stage '(.+)' didn't change, skipping$"): "unchanged",
    re.compile(r"^Stage '(.+)' is cached - skipping run, checking out outputs$"): "from cache",
}
_FAILED = re.compile(r"failed to reproduce '(.+?)'")
_DEFECT = 1


@dataclass(frozen=True)
class Reason:
    """Why a stage did not make its outs."""

    stage: str | None  # None: DVC could not even begin
    message: str
    exit_code: int  # 2 bad input, 3 a check blocks, 1 anything else


@dataclass
class Attempt:
    """What one `dvc repro` did."""

    fates: dict[str, str] = field(default_factory=dict)  # stage -> ran | unchanged | from cache
    reason: Reason | None = None
    restored: bool = False  # the failed stage's last good outs are back


def repro(
    root: Path,
    stages: Sequence[str] = (),
    *,
    single: bool = False,
    say: Callable[[str], None],
    tell: Callable[[str], None] | None = None,
    env: Mapping[str, str] | None = None,
) -> Attempt:
    """Run `dvc repro`, restore the outs of a stage that failed or was interrupted, and say why.

    stages: none means all. single: these stages only, not what they depend on.
    say: gets every line that DVC and the stages print; tell: for whom we wait, where another DVC command works.
    """
    attempt, said, began = Attempt(), [], time.time()

    def listen(line: str) -> None:
        said.append(line)
        for pattern, fate in _FATES.items():
            if (match := pattern.match(line)) and attempt.fates.get(match[1]) in (None, "unchanged"):
                attempt.fates[match[1]] = fate
        say(line)

    command = [*DVC, "repro", *(["--single-item"] if single else []), *stages]
    try:
        while status := run_group(command, cwd=root, say=listen, env=env):
            if (holder := holder_of(root, said)) is None:
                break
            said.clear()
            wait_for(root, holder, tell or say)
    except BaseException:
        with undisturbed():
            restore(root, _last(attempt), say)
        raise
    if status:
        attempt.reason = _explain(root, attempt, said, began)
        attempt.restored = restore(root, attempt.reason.stage, say)
    return attempt


def restore(root: Path, stage: str | None, say: Callable[[str], None]) -> bool:
    """Put back the last good outs of a stage and say whether there were any."""
    if stage is None or not _was_made(root, stage):
        return False
    said: list[str] = []
    while status := run_group([*DVC, "checkout", "--force", stage], cwd=root, say=said.append):
        if (holder := holder_of(root, said)) is None:
            break
        said.clear()
        wait_for(root, holder, say)
    if status:
        say(f"The last good output of {stage} could not be restored: {' '.join(said)} Try: dvc checkout {stage}")
    _restore_report(root, stage)
    return True


def _restore_report(root: Path, stage: str) -> None:
    """`dvc checkout` leaves out what git keeps (`cache: false`); the run cache holds the report all the same."""
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


def _last(attempt: Attempt) -> str | None:
    return next(reversed([stage for stage, fate in attempt.fates.items() if fate == "ran"]), None)


def _was_made(root: Path, stage: str) -> bool:
    """dvc.lock holds these very outs: after a switch of source it may hold the stage with another source's."""
    return any(made.stage.name == stage for made in read_made(read_graph(root)))


def _explain(root: Path, attempt: Attempt, said: list[str], began: float) -> Reason:
    named = [match[1] for line in said if (match := _FAILED.search(line))]
    stage = named[-1] if named else _last(attempt)
    told = root / "attempts" / (stage or "") / "failure.json"
    if stage and told.is_file() and told.stat().st_mtime >= began - 1:
        failure = json.loads(told.read_text(encoding="utf-8"))
        return Reason(stage, failure["message"], failure["exit_code"])
    if unusable := _unusable(root):
        return Reason(stage, unusable, InputError.exit_code)
    errors = [line.removeprefix("ERROR: ") for line in said if line.startswith("ERROR: ")]
    return Reason(stage, " ".join(errors or said[-3:] or ["dvc repro failed without a word."]), _DEFECT)


def _unusable(root: Path) -> str | None:
    """Why DVC could not begin: it names neither a bad parameter nor a log that is not there as its own words would."""
    try:
        path = (root / load_params(root / "params.yaml")["source"].path).resolve()
    except InputError as error:
        return str(error)
    read = {(root / file).resolve() for stage in read_graph(root).stages for file in stage.files}
    if path not in read or path.exists():
        return None
    return f"source.path: {path} does not exist. Say where the log lies: make run SOURCE=... DATA=<path>."
