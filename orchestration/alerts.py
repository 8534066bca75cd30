"""A failed run or a failed check -> one message to the address or the command that params.yaml names (alerts).

The message is one JSON object, {text, what, name, reason, run_id, severity, at}.
"""

import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import dagster as dg

from contracts.errors import shorten
from contracts.params import PARAMS
from orchestration.channels import SAID
from orchestration.internals import failed_checks
from orchestration.outbox import Sent, deliver

INTERVAL_S = 30
MOST_RUNS = 100
"""How many failed runs one tick looks at."""


def build_run_alert(root: Path) -> dg.SensorDefinition:
    """The sensor that reports failed runs; on by default, silent without channels in params.yaml.

    Not a `run_failure_sensor`: what that cannot send is lost.
    """

    @dg.sensor(
        name="alert_failed_run",
        description=f"Tells once of every failed run ({PARAMS}, alerts); silent where that names nobody.",
        minimum_interval_seconds=INTERVAL_S,
        default_status=dg.DefaultSensorStatus.RUNNING,
    )
    def alert_failed_run(context: dg.SensorEvaluationContext) -> dg.SkipReason:
        instance, kept = context.instance, json.loads(context.cursor) if context.cursor else {}
        after = kept.get("after", kept.get("record_id"))  # record_id: in cursors of earlier versions
        if after is None:
            newest = instance.fetch_run_status_changes(dg.DagsterEventType.RUN_FAILURE, limit=1).records
            context.update_cursor(json.dumps({"after": newest[0].storage_id if newest else -1, "unsent": {}}))
            return dg.SkipReason("runs that fail from now on are told of")
        records = instance.fetch_run_status_changes(
            dg.RunStatusChangeRecordsFilter(dg.DagsterEventType.RUN_FAILURE, after_storage_id=after),
            limit=MOST_RUNS,
            ascending=True,
        ).records
        known = {run_id: Sent.read(each) for run_id, each in kept.get("unsent", {}).items()}
        failed = dict.fromkeys([*known, *(record.run_id for record in records)])
        told, said = deliver(root, {run_id: (run_id, partial(_of_run, instance, run_id)) for run_id in failed}, known)
        unsent = {run_id: each.written() for run_id, each in told.items() if each.left}
        after = max([after, *(record.storage_id for record in records)])
        context.update_cursor(json.dumps({"after": after, "unsent": unsent}))
        return dg.SkipReason(said or "no run has failed since")

    return alert_failed_run


def build_check_alert(root: Path, checks: list[dg.AssetCheckKey]) -> dg.SensorDefinition:
    """The sensor that reports failed checks, each failure once; on, silent without channels in params.yaml."""

    @dg.sensor(
        name="alert_failed_check",
        description=f"Tells once of every failed check, warnings too, whoever ran its stage ({PARAMS}, alerts).",
        minimum_interval_seconds=INTERVAL_S,
        default_status=dg.DefaultSensorStatus.RUNNING,
    )
    def alert_failed_check(context: dg.SensorEvaluationContext) -> dg.SkipReason:
        found = failed_checks(context.instance, checks)
        wanted = {key.to_user_string(): (event, partial(_of_check, key, one)) for key, (event, one) in found.items()}
        kept, said = deliver(root, wanted, _read_cursor(context.cursor))
        context.update_cursor(json.dumps({name: each.written() for name, each in kept.items()}))
        return dg.SkipReason(said or "no check has failed since")

    return alert_failed_check


def _read_cursor(cursor: str | None) -> dict[str, Sent]:
    """Check -> what is known of its last failure.

    The cursor of the earliest version was a number without that information: then current failures are reported again.
    """
    known = json.loads(cursor) if cursor else {}
    return {name: Sent.read(each) for name, each in known.items()} if isinstance(known, dict) else {}


def _of_run(instance: dg.DagsterInstance, run_id: str) -> Mapping[str, Any]:
    run = instance.get_run_by_id(run_id)
    name = run.job_name if run else "a deleted job"
    events = [entry.dagster_event for entry in instance.all_logs(run_id) if entry.dagster_event]
    reasons = [_reason(event) for event in events if event.is_step_failure] or _outside(events)
    reason = shorten("; ".join(reasons) or "it failed", SAID)
    return {
        "text": f"leitmotif: the run of {name} failed. {reason}",
        "what": "run",
        "name": name,
        "reason": reason,
        "run_id": run_id,
        "severity": "ERROR",
    }


def _of_check(key: dg.AssetCheckKey, evaluation: dg.AssetCheckEvaluation) -> Mapping[str, Any]:
    name, reason = key.to_user_string(), shorten(evaluation.description or "it failed", SAID)
    return {
        "text": f"leitmotif: the check {name} failed ({evaluation.severity.value}). {reason}",
        "what": "check",
        "name": name,
        "reason": reason,
        "run_id": None,
        "severity": evaluation.severity.value,
    }


def _outside(events: Sequence[dg.DagsterEvent]) -> list[str]:
    """Why a run failed in which no step did: what its engine said last, as that its process was killed."""
    last: list[str] = []
    for event in events:
        if event.is_engine_event:
            error = event.engine_event_data.error
            last = [" ".join(filter(None, [event.message, error and error.message.strip()]))]
        elif event.event_type == dg.DagsterEventType.RUN_FAILURE:
            return last or [event.message or ""]
    return last


def _reason(event: dg.DagsterEvent) -> str:
    told = event.step_failure_data.user_failure_data
    error = event.step_failure_data.error
    return str((told and told.description) or (error and error.message.strip()) or event.message)
