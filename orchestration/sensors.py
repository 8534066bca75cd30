"""A sensor on dvc.lock and the working files: within seconds Dagster shows what `dvc repro` made or a person edited."""

import hashlib
import json
from pathlib import Path

import dagster as dg

from orchestration.dvc_lock import LockBusy
from orchestration.graph import read_graph
from orchestration.record import failed, record
from orchestration.versions import observe, read_made

INTERVAL_S = 15


def build_sensor(root: Path) -> dg.SensorDefinition:
    """The sensor for the repository at root; on by default."""

    @dg.sensor(
        name="dvc_lock",
        description="Reports what `dvc repro` made, and observes params.yaml and the stages' modules.",
        minimum_interval_seconds=INTERVAL_S,
        default_status=dg.DefaultSensorStatus.RUNNING,
    )
    def dvc_lock(context: dg.SensorEvaluationContext) -> dg.SkipReason:
        try:
            graph = read_graph(root)
            known = [observe(graph), [[made.cmd, made.versions, made.inputs] for made in read_made(graph)]]
            known.append(sorted(failed(context.instance, graph)))
            cursor = hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()
            if cursor == context.cursor:
                return dg.SkipReason("nothing new in dvc.lock, params.yaml or the code")
            told = record(context.instance, graph)
        except LockBusy as error:
            return dg.SkipReason(f"{error}; the next tick looks again")
        context.update_cursor(cursor)
        return dg.SkipReason(f"told Dagster of {', '.join(told)}" if told else "Dagster knew it all")

    return dvc_lock
