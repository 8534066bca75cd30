"""A run that is ended in the middle of a stage leaves no process and the last outs, and the next run succeeds."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest
from dagster import DagsterRunStatus

from orchestration.partitions import PARTITIONS
from orchestration.recover import clear_dead_runs
from tests.orchestration.conftest import ROOT, Toy
from tests.orchestration.test_partitions import DAYS, JUDGE

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes are looked up in /proc")

RUN_IN_DAGSTER = """
import sys
from pathlib import Path
import dagster as dg
from orchestration.definitions import build_definitions
job = build_definitions(Path.cwd()).resolve_job_def("everything")
with dg.DagsterInstance.get() as instance:
    job.execute_in_process(instance=instance, asset_selection=[dg.AssetKey("totals")])
"""

JUDGE_IN_DAGSTER = f"""
from pathlib import Path
import dagster as dg
from orchestration.definitions import build_definitions
from orchestration.partitions import ASSET
job = build_definitions(Path.cwd()).resolve_implicit_global_asset_job_def()
tags = {{"dagster/asset_partition_range_start": {DAYS[0]!r}, "dagster/asset_partition_range_end": {DAYS[1]!r}}}
with dg.DagsterInstance.get() as instance:
    job.execute_in_process(instance=instance, asset_selection=[ASSET], tags=tags)
"""


@pytest.fixture
def instance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dg.DagsterInstance]:
    home = tmp_path / "dagster"
    home.mkdir()
    shutil.copy(ROOT / "orchestration/dagster.yaml", home)
    monkeypatch.setenv("DAGSTER_HOME", str(home))
    with dg.DagsterInstance.get() as instance:
        yield instance


def _start_slow_stage(toy: Toy, *command: str) -> "subprocess.Popen[str]":
    """Start `count` again so that it sleeps in its middle."""
    toy.set(request__block_s=9999.0)
    process = subprocess.Popen(
        [sys.executable, *command],
        cwd=toy.root,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    for _ in range(2000):
        if len(toy.runs) == 4 and not (toy.root / "data/simulator/totals").exists():
            return process
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    raise AssertionError("count never started")


def _left_over(root: Path) -> list[str]:
    """Command lines of living processes that work in this repository."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            inside = os.readlink(process / "cwd") == str(root)
            state = (process / "stat").read_text().rpartition(")")[2].split()[0]
            if inside and state not in "ZX":
                found.append((process / "cmdline").read_text().replace("\0", " "))
        except OSError:
            continue
    return found


def _settles(root: Path) -> bool:
    for _ in range(500):
        if not _left_over(root):
            return True
        time.sleep(0.02)
    return False


def _is_whole_and_runs_again(toy: Toy) -> None:
    toy.set(request__block_s=600.0, audit__min_session_events=4)
    toy.dvc("repro")
    assert toy.read("totals/total.txt") == "10"
    assert "up to date" in toy.dvc("status")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, pytest.param(signal.SIGHUP, marks=pytest.mark.slow)])
def test_an_interrupted_make_run_restores_and_leaves_nothing(made_toy: Toy, number: signal.Signals) -> None:
    process = _start_slow_stage(made_toy, "-m", "orchestration.reproduce")
    process.send_signal(number)
    said, _ = process.communicate(timeout=180)
    assert process.returncode == 130, said
    assert "the last good outputs stand" in said
    assert _left_over(made_toy.root) == []
    assert made_toy.read("totals/total.txt") == "8"
    _is_whole_and_runs_again(made_toy)


def test_make_run_with_a_closed_pipe_ends_with_a_message_and_keeps_the_last_outputs(made_toy: Toy) -> None:
    made_toy.set(request__block_s=700.0)
    command = f"{sys.executable} -m orchestration.reproduce | head -1; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], cwd=made_toy.root, capture_output=True, text=True, check=False)
    assert done.returncode == 130
    assert "Traceback" not in done.stderr
    assert "run it again" in done.stderr
    assert _settles(made_toy.root)
    assert made_toy.read("totals/total.txt") == "8"


def test_a_terminated_dagster_run_restores_and_leaves_nothing(made_toy: Toy, instance: dg.DagsterInstance) -> None:
    process = _start_slow_stage(made_toy, "-c", RUN_IN_DAGSTER)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=180)
    assert _left_over(made_toy.root) == []
    assert made_toy.read("totals/total.txt") == "8"
    (run,) = instance.get_runs()
    assert run.status in (DagsterRunStatus.FAILURE, DagsterRunStatus.CANCELED)
    _is_whole_and_runs_again(made_toy)


def test_a_killed_dagster_run_leaves_no_process_and_is_cancelled_at_the_next_start(
    made_toy: Toy, instance: dg.DagsterInstance
) -> None:
    process = _start_slow_stage(made_toy, "-c", RUN_IN_DAGSTER)
    assert clear_dead_runs(instance) == {}
    process.kill()
    process.communicate(timeout=180)
    assert _settles(made_toy.root)
    (run,) = instance.get_runs()
    assert run.status == DagsterRunStatus.STARTED
    started = made_toy.python("orchestration.recover")
    assert run.run_id in started.stdout, started.stderr
    assert made_toy.read("totals/total.txt") == "8"
    again = instance.get_run_by_id(run.run_id)
    assert again is not None
    assert again.status == DagsterRunStatus.CANCELED
    _is_whole_and_runs_again(made_toy)


def test_a_run_that_dagster_saw_die_gives_its_place_in_the_pool_back_at_the_next_start(
    made_toy: Toy, instance: dg.DagsterInstance
) -> None:
    """Dagster's code server fails a run whose worker was killed, of memory say, and leaves its place taken."""
    process = _start_slow_stage(made_toy, "-c", RUN_IN_DAGSTER)
    process.kill()
    process.communicate(timeout=180)
    (run,) = instance.get_runs()
    instance.report_run_failed(run)
    assert instance.event_log_storage.get_concurrency_run_ids() == {run.run_id}
    started = made_toy.python("orchestration.recover")
    assert run.run_id in started.stdout, started.stderr
    assert instance.event_log_storage.get_concurrency_run_ids() == set()
    assert made_toy.read("totals/total.txt") == "8"
    assert clear_dead_runs(instance) == {}
    _is_whole_and_runs_again(made_toy)


def test_a_stage_cut_off_while_partitions_are_judged_has_its_last_outputs_at_the_next_start(
    made_toy: Toy, instance: dg.DagsterInstance
) -> None:
    """That step is not called after a stage, and runs more than one: here ingest's `make` first, which ended."""
    toy = made_toy
    with (toy.root / "dvc.yaml").open("a") as file:
        file.write(JUDGE)
    toy.dvc("repro", "judge")
    before = (toy.root / "data/simulator/profile/partitions.parquet").read_bytes()
    instance.add_dynamic_partitions(str(PARTITIONS.name), DAYS)
    toy.set(seed=5)
    (toy.root / "hold").touch()
    process = subprocess.Popen([sys.executable, "-c", JUDGE_IN_DAGSTER], cwd=toy.root, stdout=subprocess.PIPE)
    while not (toy.root / "held").exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    process.kill()
    process.communicate(timeout=180)
    (toy.root / "hold").unlink()
    assert _settles(toy.root)
    assert not (toy.root / "data/simulator/profile").exists()
    started = toy.python("orchestration.recover")
    assert "had lost its worker" in started.stdout, started.stderr
    assert (toy.root / "data/simulator/profile/partitions.parquet").read_bytes() == before
    assert toy.read("interactions/numbers.txt").split() == list("012345")
    toy.dvc("repro", "judge")
    assert toy.runs[-1] == "judge"
