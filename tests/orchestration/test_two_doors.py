"""Dagster and `dvc repro` at once: which waits for which, with what message, and what Dagster then shows."""

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster._core.definitions.asset_health.asset_materialization_health import AssetMaterializationHealthState
from dagster._core.loader import LoadingContextForTest

from orchestration import assets, dvc_lock
from orchestration.absorb import build_absorb
from orchestration.definitions import build_definitions
from tests.orchestration.conftest import Toy
from tests.orchestration.test_doors import Door

pytestmark = pytest.mark.filterwarnings(  # Dagster's words about itself
    "ignore::dagster.PreviewWarning",
    "ignore::dagster.BetaWarning",
    "ignore::DeprecationWarning",
)

HOLD_REPOSITORY = """
import time, zc.lockfile
from pathlib import Path
from typing import Any
lock = zc.lockfile.LockFile(".dvc/tmp/lock")
print("held", flush=True)
while not Path("../waited_for").exists():
    time.sleep(0.01)
"""
HOLD_PATH = """
import sys, time
from pathlib import Path
from typing import Any
from dvc.fs import localfs
from dvc.rwlock import rwlock
read = [str(Path("data/simulator/totals").resolve())]
with rwlock(str(Path(".dvc/tmp").resolve()), localfs, " ".join(sys.argv), read, [], False):
    print("held", flush=True)
    while not Path("../waited_for").exists():
        time.sleep(0.01)
"""
HOLD_BETWEEN = HOLD_PATH.replace("totals", "metrics").replace(
    "read = ",
    """print("held", flush=True)
while len(Path("runs.txt").read_text().split()) == 3:
    time.sleep(0.01)
read = """,
)
"""Takes the lock of the last stage's out once the first stage runs."""


@pytest.fixture
def door(toy: Toy, instance: dg.DagsterInstance) -> Door:
    return Door(toy.root, instance)


WAITING = "to end; then "
LIMIT_S = 60.0


@contextmanager
def held(root: Path, script: str, told: Callable[[], str]) -> Iterator[int]:
    """Another process that holds one of DVC's locks until the waiting command has reported it; its id."""
    program = root.parent / "dvc"  # so named that its note is taken for that of a DVC command
    program.write_text(script)

    def release() -> None:
        limit = time.monotonic() + LIMIT_S
        while WAITING not in told() and time.monotonic() < limit:
            time.sleep(0.05)
        (root.parent / "waited_for").touch()

    with subprocess.Popen([sys.executable, program], cwd=root, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        releasing = threading.Thread(target=release)
        releasing.start()
        yield process.pid
        releasing.join()


def run_pipeline(toy: Toy, said: Path) -> int:
    """Run `make run` with its output in a file; its exit status."""
    with said.open("w") as output:
        command = [sys.executable, "-m", "orchestration.reproduce"]
        return subprocess.run(command, cwd=toy.root, stdout=output, stderr=subprocess.STDOUT, check=False).returncode


def said_so_far(door: Door) -> str:
    """By the runs of Dagster up to now."""
    runs = door.instance.get_runs()
    return "\n".join(entry.user_message for run in runs for entry in door.instance.all_logs(run.run_id))


def said(door: Door, run: dg.ExecuteInProcessResult) -> str:
    return "\n".join(entry.user_message for entry in door.instance.all_logs(run.run_id))


def failure_of(run: dg.ExecuteInProcessResult) -> str:
    """The one reason of a failed run, which is a sentence and no traceback."""
    (failed,) = [event.step_failure_data for event in run.all_events if event.is_step_failure]
    assert failed.user_failure_data is not None, failed
    return str(failed.user_failure_data.description)


def retries(run: dg.ExecuteInProcessResult) -> int:
    return sum(event.event_type == dg.DagsterEventType.STEP_UP_FOR_RETRY for event in run.all_events)


@pytest.mark.parametrize("script", [HOLD_REPOSITORY, HOLD_PATH], ids=["repository", "path"])
def test_an_asset_waits_for_another_dvc_command_and_says_for_whom(made_toy: Toy, door: Door, script: str) -> None:
    made_toy.set(audit__min_session_events=4)
    with held(made_toy.root, script, lambda: said_so_far(door)) as pid:
        run = door.materialize("totals")
    assert run.success
    assert f"(process {pid}) {WAITING}" in said(door, run)
    assert made_toy.read("totals/total.txt") == "10"


def test_a_command_waits_as_long_as_a_stage_does(made_toy: Toy, door: Door) -> None:
    """By themselves `make promote` and `make absorb` wait a minute, and a nightly run would fail beside a person's."""
    job = build_absorb(made_toy.root, (sys.executable, "-c", "print('sealed')"))
    with held(made_toy.root, HOLD_PATH, lambda: said_so_far(door)) as pid:
        run = job.execute_in_process(instance=door.instance, raise_on_error=False)
    assert run.success
    assert f"(process {pid}) to end; then absorb begins." in said(door, run)


def test_make_run_waits_too(made_toy: Toy, tmp_path: Path) -> None:
    made_toy.set(audit__min_session_events=4)
    (told := tmp_path / "told").touch()
    with held(made_toy.root, HOLD_PATH, told.read_text) as pid:
        assert run_pipeline(made_toy, told) == 0, told.read_text()
    assert f"(process {pid}) {WAITING}" in told.read_text()
    assert made_toy.read("totals/total.txt") == "10"


def test_a_lock_whose_process_id_was_reused_does_not_block(made_toy: Toy, door: Door) -> None:
    made_toy.set(audit__min_session_events=4)
    left = {"pid": os.getppid(), "cmd": "dvc repro"}
    (made_toy.root / ".dvc/tmp/rwlock").write_text(
        json.dumps({"write": {str(made_toy.root / "data/simulator/totals"): left}, "read": {}})
    )
    assert door.materialize("totals").success


def test_a_dvc_command_that_comes_between_two_stages_is_waited_for(made_toy: Toy, tmp_path: Path) -> None:
    made_toy.set(seed=4)  # everything is made again
    (told := tmp_path / "told").touch()
    with held(made_toy.root, HOLD_BETWEEN, told.read_text) as pid:
        assert run_pipeline(made_toy, told) == 0, told.read_text()
    assert f"(process {pid}) {WAITING}the run goes on" in told.read_text()
    assert "3 of 3 stages ran" in told.read_text()


def test_a_lock_file_that_stays_unreadable_is_tried_again_and_then_one_sentence(
    made_toy: Toy, door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dvc_lock, "PATIENCE_S", 0.3)
    monkeypatch.setattr(assets, "RETRY_S", 0.1)
    patient = Door(made_toy.root, door.instance)
    (made_toy.root / "dvc.lock").write_text("<<<<<<< ours\nstages:\n")
    run = patient.materialize("totals")
    assert "git checkout" in failure_of(run)
    assert retries(run) == 2
    assert "dvc.lock" in patient.tick()


def test_a_failure_that_would_recur_is_not_retried(made_toy: Toy, door: Door) -> None:
    made_toy.set(audit__min_session_events=13)
    assert retries(door.materialize("totals")) == 0
    assert retries(door.materialize("totals", params={"audit.min_events": 5})) == 0


def test_a_lock_file_that_is_being_written_is_waited_for(made_toy: Toy, door: Door) -> None:
    lock = made_toy.root / "dvc.lock"
    whole = lock.read_text()
    lock.write_text(whole[: len(whole) // 2] + "\n  x: [")
    later = threading.Timer(1.0, lock.write_text, (whole,))
    later.start()
    assert door.materialize("totals").success
    later.join()
    assert made_toy.runs == ["make", "count", "render"]


async def shows_failed(door: Door, asset: str) -> bool:
    """What the page shows: Dagster's own state of an asset's health."""
    context = LoadingContextForTest(door.instance)
    state = await AssetMaterializationHealthState.compute_for_asset(dg.AssetKey(asset), None, context)
    return not state.failed_subset.is_empty


def failed(door: Door) -> dict[str, bool]:
    import asyncio

    return {asset: asyncio.run(shows_failed(door, asset)) for asset in ("interactions", "totals", "metrics")}


def test_a_failure_that_dvc_repro_repaired_is_no_longer_shown(made_toy: Toy, door: Door) -> None:
    door.tick()
    made_toy.set(audit__min_session_events=13)
    assert not door.materialize("totals", "metrics").success
    door.tick()
    assert failed(door) == {"interactions": False, "totals": True, "metrics": True}  # nothing is mended yet
    made_toy.set(audit__min_session_events=2)
    assert made_toy.python("orchestration.reproduce").returncode == 0
    assert "totals" in door.tick()
    assert failed(door) == {"interactions": False, "totals": False, "metrics": False}
    assert set(door.statuses().values()) == {"FRESH"}
    assert [door.tick(), "nothing new" in door.tick()] == ["Dagster knew it all", True]


def test_a_run_that_failed_with_nothing_stale_is_resolved_by_the_current_outputs(made_toy: Toy, door: Door) -> None:
    door.tick()
    assert not door.materialize("totals", params={"audit.min_events": 5}).success
    assert failed(door)["totals"]
    assert "totals" in door.tick()
    assert not failed(door)["totals"]


def test_cached_outputs_do_not_show_another_run_s_duration(made_toy: Toy, door: Door) -> None:
    made_toy.set(audit__min_session_events=7)
    made_toy.dvc("repro")
    made_toy.set(audit__min_session_events=2)
    told = made_toy.python("orchestration.reproduce").stdout
    (line,) = [line for line in told.splitlines() if line.startswith("count ")]
    assert line.split()[:4] == ["count", "from", "cache", "restored"]
    again = made_toy.python("orchestration.reproduce").stdout
    (line,) = [line for line in again.splitlines() if line.startswith("count ")]
    assert line.split()[:3] == ["count", "unchanged", "restored"]
    door.tick()
    assert door.latest("totals").metadata["wall_s"].value == "restored"
    assert isinstance(door.latest("interactions").metadata["wall_s"].value, float)


def test_a_run_without_data_docs_names_the_command_that_brings_them_back(made_toy: Toy) -> None:
    told = made_toy.python("orchestration.reproduce").stdout
    assert "Data Docs     make docs" in told


def test_the_code_location_loads_in_dagsters_own_program() -> None:
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(
        [Path(sys.executable).parent / "dagster", "definitions", "validate"],
        cwd=root,
        env={name: value for name, value in os.environ.items() if name != "DAGSTER_HOME"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_no_two_things_of_dagster_have_one_name() -> None:
    repository = build_definitions(Path(__file__).resolve().parents[2]).get_repository_def()
    jobs = [job for job in repository.get_all_jobs() if not job.name.startswith("__ASSET")]
    names = [job.name for job in jobs]
    names += {op.name for job in jobs for op in job.graph.node_defs}
    names += [each.name for each in [*repository.schedule_defs, *repository.sensor_defs]]
    assert len(names) == len(set(names)), sorted(names)


def test_a_failed_run_says_what_became_of_the_last_good_output(made_toy: Toy, door: Door) -> None:
    def told() -> str:
        run = door.materialize("totals")
        (failed,) = [event.step_failure_data for event in run.all_events if event.is_step_failure]
        assert failed.user_failure_data is not None
        return str(failed.user_failure_data.metadata["last good output"].value)

    made_toy.set(audit__min_session_events=13)
    assert told() == "stands; `dvc checkout count` restored it"
    assert made_toy.read("totals/total.txt") == "8"
    before = (made_toy.root / "dvc.lock").read_text()
    (made_toy.root / "dvc.lock").write_text("schema: '2.0'\nstages: {}\n")
    assert told() == "there is none yet"
    (made_toy.root / "dvc.lock").write_text(before)  # as in a clone that nobody has pulled into
    for folder in (".dvc/cache", "data/simulator/totals"):
        shutil.rmtree(made_toy.root / folder, ignore_errors=True)
    assert told().startswith("could not be restored: it is not in DVC's cache; `dvc pull count`")
    assert not (made_toy.root / "data/simulator/totals").exists()


def test_a_tick_while_a_run_finishes_a_stage_tells_nothing_twice(
    made_toy: Toy, door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DVC notes a stage a second before its run does: by then a failed check would be told of twice."""
    door.tick()
    results = assets._results

    def ticked(*arguments: Any) -> Iterator[Any]:
        door.tick()
        yield from results(*arguments)

    monkeypatch.setattr(assets, "_results", ticked)
    made_toy.set(serve__clock="now")
    assert not door.materialize("metrics").success  # by its check
    page, check = dg.AssetKey("metrics"), dg.AssetCheckKey(dg.AssetKey("metrics"), "model_is_good_enough")
    assert len(door.instance.fetch_materializations(page, limit=9).records) == 2
    history = door.instance.event_log_storage.get_asset_check_execution_history(check, limit=9)
    assert len(history) == 2
    door.cursor = None
    assert door.tick() == "Dagster knew it all"
