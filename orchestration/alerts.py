"""A failed run or a failed check -> one message to the address or the command that params.yaml names (alerts).

The message is one JSON object, {text, what, name, reason, run_id, severity, at}; `text` is what Slack, Mattermost and
others show of it.
"""

import json
import os
import subprocess
import urllib.request
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import dagster as dg

from contracts.errors import shorten
from contracts.params import PARAMS, load_params
from orchestration.internals import failed_checks

SAID = 2000
"""At most so many characters of a reason."""
PATIENCE_S = 20
INTERVAL_S = 30
NOBODY = "alerts.webhook and alerts.command of params.yaml name nobody"


def send(root: Path, message: Mapping[str, Any]) -> list[str]:
    """Tell whoever params.yaml names; returns whom. Raises where one of them could not be told."""
    alerts, told = load_params(root / PARAMS)["alerts"], []
    text = json.dumps({"at": datetime.now(UTC).isoformat(timespec="seconds"), **message}, ensure_ascii=False)
    if alerts.webhook:
        request = urllib.request.Request(
            os.path.expandvars(alerts.webhook), text.encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=PATIENCE_S):
            told.append("alerts.webhook")
    if alerts.command:
        command = [os.path.expandvars(word) for word in alerts.command]
        done = subprocess.run(
            command, input=text, cwd=root, capture_output=True, text=True, timeout=PATIENCE_S, check=False
        )
        if done.returncode:
            raise RuntimeError(f"alerts.command ended with {done.returncode}: {shorten(done.stderr.strip(), SAID)}")
        told.append("alerts.command")
    return told


def build_run_alert(root: Path) -> dg.SensorDefinition:
    """The sensor that tells of failed runs; on, and silent where params.yaml names nobody."""

    @dg.run_failure_sensor(
        name="alert_failed_run",
        description=f"Tells of every failed run ({PARAMS}, alerts); silent where that names nobody.",
        minimum_interval_seconds=INTERVAL_S,
        default_status=dg.DefaultSensorStatus.RUNNING,
    )
    def alert_failed_run(context: dg.RunFailureSensorContext) -> dg.SkipReason:
        run, steps = context.dagster_run, context.get_step_failure_events()
        reasons = [_reason(event) for event in steps] or [context.failure_event.message or "it failed"]
        reason = shorten("; ".join(reasons), SAID)
        told = send(
            root,
            {
                "text": f"leitmotif: the run of {run.job_name} failed. {reason}",
                "what": "run",
                "name": run.job_name,
                "reason": reason,
                "run_id": run.run_id,
                "severity": "ERROR",
            },
        )
        return dg.SkipReason(f"told {', '.join(told)}" if told else NOBODY)

    return alert_failed_run


def build_check_alert(root: Path, checks: list[dg.AssetCheckKey]) -> dg.SensorDefinition:
    """The sensor that tells of failed checks, each failure once; on, and silent where params.yaml names nobody."""

    @dg.sensor(
        name="alert_failed_check",
        description=f"Tells once of every failed check, warnings too, whoever ran its stage ({PARAMS}, alerts).",
        minimum_interval_seconds=INTERVAL_S,
        default_status=dg.DefaultSensorStatus.RUNNING,
    )
    def alert_failed_check(context: dg.SensorEvaluationContext) -> dg.SkipReason:
        newest = int(context.cursor or 0)
        failed = failed_checks(context.instance, checks)
        new = {key: found for key, found in failed.items() if found[0] > newest}
        told = [name for key, (_, evaluation) in new.items() for name in send(root, _of_check(key, evaluation))]
        context.update_cursor(str(max([newest, *(number for number, _ in new.values())])))
        if not new:
            return dg.SkipReason("no check has failed since")
        names = ", ".join(key.to_user_string() for key in new)
        return dg.SkipReason(f"{names}: {'told' if told else NOBODY}")

    return alert_failed_check


def _of_check(key: dg.AssetCheckKey, evaluation: dg.AssetCheckEvaluation) -> dict[str, Any]:
    name, reason = key.to_user_string(), shorten(evaluation.description or "it failed", SAID)
    return {
        "text": f"leitmotif: the check {name} failed ({evaluation.severity.value}). {reason}",
        "what": "check",
        "name": name,
        "reason": reason,
        "run_id": None,
        "severity": evaluation.severity.value,
    }


def _reason(event: dg.DagsterEvent) -> str:
    told = event.step_failure_data.user_failure_data
    error = event.step_failure_data.error
    return str((told and told.description) or (error and error.message.strip()) or event.message)
