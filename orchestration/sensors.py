"""Sensors: on dvc.lock and the working files, so that within seconds Dagster shows what `dvc repro` made or a person
edited; on the log's files; and the one that runs what is no longer up to date. The last two start work: off at first.
"""

import hashlib
import json
import time
from pathlib import Path
from typing import Any

import dagster as dg

from contracts.params import PARAMS, read_params
from orchestration.crowned import crowned
from orchestration.dvc_lock import LockBusy
from orchestration.graph import read_graph
from orchestration.internals import AssetJob
from orchestration.record import at_work, current, failed, record
from orchestration.versions import observe, read_made

INTERVAL_S = 15
STARTS_WORK_S = 60
"""How often it is looked whether there is something to run."""
SETTLED_S = 30
"""A file of the log that was written to so lately may not be whole yet."""


def build_sensor(root: Path) -> dg.SensorDefinition:
    """The sensor for the repository at root; on by default."""

    @dg.sensor(
        name="dvc_lock",
        description="Reports what `dvc repro` made and which bundle is champion, and observes params.yaml and modules.",
        minimum_interval_seconds=INTERVAL_S,
        default_status=dg.DefaultSensorStatus.RUNNING,
    )
    def dvc_lock(context: dg.SensorEvaluationContext) -> dg.SkipReason:
        try:
            graph = read_graph(root)
            known: list[Any] = [observe(graph), [[made.cmd, made.versions, made.inputs] for made in read_made(graph)]]
            known += [sorted(failed(context.instance, graph)), crowned(graph)]
            cursor = hashlib.sha256(json.dumps(known, sort_keys=True, default=str).encode()).hexdigest()
            if cursor == context.cursor:
                return dg.SkipReason("nothing new in dvc.lock, params.yaml or the code")
            told = record(context.instance, graph, but=at_work(context.instance))
        except LockBusy as error:
            return dg.SkipReason(f"{error}; the next tick looks again")
        context.update_cursor(cursor)
        return dg.SkipReason(f"told Dagster of {', '.join(told)}" if told else "Dagster knew it all")

    return dvc_lock


def build_new_files(root: Path, job: AssetJob) -> dg.SensorDefinition:
    """The sensor that runs the pipeline when files of the log come, go or change; off until switched on."""

    @dg.sensor(
        name="new_files",
        description="Runs the pipeline when a file in source.path comes, goes or changes and nobody has written "
        f"there for {SETTLED_S} s. Off until switched on here. `out_of_date` looks at parameters and code too: one is "
        "enough.",
        job=job,
        minimum_interval_seconds=STARTS_WORK_S,
        default_status=dg.DefaultSensorStatus.STOPPED,
    )
    def new_files(context: dg.SensorEvaluationContext) -> dg.RunRequest | dg.SkipReason:
        path = root / str(read_params(root / PARAMS)["source"]["path"])
        files = sorted(each for each in ([path] if path.is_file() else path.rglob("*")) if each.is_file())
        seen = [(str(file), stat.st_size, stat.st_mtime_ns) for file in files if (stat := file.stat())]
        if not seen:
            return dg.SkipReason(f"there is no file in {path}")
        now = time.time()  # a file of tomorrow came from a machine whose clock is ahead, and may have come long ago
        if any(abs(now - written / 1e9) < SETTLED_S for *_, written in seen):
            return dg.SkipReason(f"{path} is being written to")
        cursor = hashlib.sha256(json.dumps(seen).encode()).hexdigest()
        if cursor == context.cursor:
            return dg.SkipReason(f"no new file in {path}")
        first = context.cursor is None
        context.update_cursor(cursor)
        if first and _is_read(root):
            return dg.SkipReason(f"the pipeline has read the {len(seen):,} files of {path}")
        waiting = context.instance.get_runs(
            dg.RunsFilter(job_name=job.name, statuses=[dg.DagsterRunStatus.QUEUED]), limit=1
        )
        if waiting:
            return dg.SkipReason(f"run {waiting[0].run_id} waits for its turn and will read the new files of {path}")
        # no run key: with one, a folder that is again as it once was would never run again
        return dg.RunRequest(tags={"new files": str(path)})

    return new_files


def build_out_of_date(selection: dg.AssetSelection) -> dg.AutomationConditionSensorDefinition:
    """Declarative automation of all that has a condition; off until switched on."""
    return dg.AutomationConditionSensorDefinition(
        "out_of_date",
        target=selection,
        description="Runs whatever depends on what changed: files of the log, parameters, code. What comes out the "
        "same, DVC skips. Off until switched on here.",
        minimum_interval_seconds=STARTS_WORK_S,
        default_status=dg.DefaultSensorStatus.STOPPED,
    )


def _is_read(root: Path) -> bool:
    """Whether the first stage's outputs are of the files as they are."""
    graph = read_graph(root)
    return graph.stages[0].outs[0].key in current(graph)
