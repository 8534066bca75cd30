"""Clear up after runs whose worker was killed: they would hold the only slot of Dagster's pool, and no run would begin.

`make ui` runs this first. Runs without a worker are cancelled, the slots of ended runs are freed, and the last good
outs of a stage that was cut off are restored. A run whose worker still lives, in another `dagster dev`, is left alone.
"""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

import dagster as dg
import psutil
from dagster import DagsterRun, DagsterRunStatus, RunsFilter

from contracts.arguments import none_taken
from orchestration.attempt import restore
from orchestration.graph import read_graph
from orchestration.partitions import JUDGING, PROFILE

_GOING_ON = [DagsterRunStatus.STARTING, DagsterRunStatus.STARTED, DagsterRunStatus.CANCELING]
_ENDED = [DagsterRunStatus.SUCCESS, DagsterRunStatus.FAILURE, DagsterRunStatus.CANCELED]


def main() -> None:
    """Clear up in the instance in DAGSTER_HOME, and name the runs."""
    if not os.environ.get("DAGSTER_HOME"):
        print("DAGSTER_HOME is not set, so there is no instance to look at. `make ui` sets it.", file=sys.stderr)
        sys.exit(2)
    with dg.DagsterInstance.get() as instance:
        for run_id, steps in clear_dead_runs(instance).items():
            print(f"Run {run_id} had lost its worker, and has ended; materialize its assets again.")
            for stage in stages_of(Path.cwd(), steps):
                restore(Path.cwd(), stage, print)


def clear_dead_runs(instance: dg.DagsterInstance) -> dict[str, list[str]]:
    """Cancel every run that nobody works on, free the pool places of what has ended; run id -> steps cut off."""
    dead = [run for run in instance.get_runs(RunsFilter(statuses=_GOING_ON)) if not _has_worker(instance, run)]
    for run in dead:
        instance.report_run_canceled(run, message="Its worker process is gone (a hard kill or a restart).")
    left = _holding(instance)
    for run in left:
        instance.event_log_storage.free_concurrency_slots_for_run(run.run_id)
    return {run.run_id: _cut_off(instance, run) for run in {run.run_id: run for run in [*dead, *left]}.values()}


def stages_of(root: Path, steps: Sequence[str]) -> list[str]:
    """The stages that these steps may have been at, upstream first. A step is called after its stage, but for the one
    that judges partitions, which runs several. Steps that run no stage stand for none."""
    graph = read_graph(root)
    judged = next((stage.name for stage in graph.stages if any(out.key == PROFILE for out in stage.outs)), "")
    wanted = {*steps, *(stage.name for stage in graph.up_to(judged) if JUDGING in steps)}
    return [stage.name for stage in graph.stages if stage.name in wanted]


def _holding(instance: dg.DagsterInstance) -> Sequence[DagsterRun]:
    """Runs that hold a place in the pool although they have ended: Dagster fails a run whose worker it sees die (of
    memory, say), and frees nothing."""
    storage = instance.event_log_storage
    holders = storage.get_concurrency_run_ids() if storage.supports_global_concurrency_limits else set()
    if not holders:  # to Dagster no ids are all
        return []
    return instance.get_runs(RunsFilter(run_ids=sorted(holders), statuses=_ENDED))


def _cut_off(instance: dg.DagsterInstance, run: DagsterRun) -> list[str]:
    steps = instance.get_run_step_stats(run.run_id)
    return [step.step_key for step in steps if step.start_time and not step.end_time]


def _has_worker(instance: dg.DagsterInstance, run: DagsterRun) -> bool:
    """Whether a process that works on this run is still alive."""
    for entry in instance.all_logs(run.run_id):
        event = entry.dagster_event
        pid = event.engine_event_data.metadata.get("pid") if event and event.is_engine_event else None
        if pid is not None and _lives(int(str(pid.value)), entry.timestamp):
            return True
    return False


def _lives(pid: int, seen_at: float) -> bool:
    """Whether the process that had this id is still alive. The id may belong to another process by now."""
    try:
        process = psutil.Process(pid)
        return process.status() != psutil.STATUS_ZOMBIE and process.create_time() <= seen_at + 1
    except psutil.NoSuchProcess:
        return False


if __name__ == "__main__":
    none_taken("make ui")
    main()
