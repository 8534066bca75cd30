"""A failed run or a failed check -> one message to the address or the command that params.yaml names (alerts).

The message is one JSON object, {text, what, name, reason, run_id, severity, at}; `text` is what Slack, Mattermost and
others show of it.
"""

import errno
import http.client
import json
import os
import subprocess
import urllib.error
import urllib.request
from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import dagster as dg

from contracts.errors import shorten
from contracts.params import PARAMS, load_params
from orchestration.internals import failed_checks

SAID = 2000
"""Limit, in characters, of a reason."""
PATIENCE_S = 20
INTERVAL_S = 30
WEBHOOK, COMMAND = "alerts.webhook", "alerts.command"
NOBODY = "alerts.webhook and alerts.command of params.yaml name nobody"


def send(root: Path, message: Mapping[str, Any]) -> list[str]:
    """Send to all channels of params.yaml; returns those that got it. After trying all, raises if one failed."""
    told, faults = tell(root, message, named(root))
    if faults:
        raise RuntimeError("; ".join([*faults.values(), *(f"{channel} was told" for channel in told)]))
    return told


def named(root: Path) -> list[str]:
    """The channels that params.yaml names."""
    alerts = load_params(root / PARAMS)["alerts"]
    return [channel for channel, to in ((WEBHOOK, alerts.webhook), (COMMAND, alerts.command)) if to]


def tell(root: Path, message: Mapping[str, Any], channels: Collection[str]) -> tuple[list[str], dict[str, str]]:
    """Try each channel separately: (channels that got it, reasons of the others without secrets)."""
    alerts = load_params(root / PARAMS)["alerts"]
    text = json.dumps({"at": datetime.now(UTC).isoformat(timespec="seconds"), **message}, ensure_ascii=False)
    faults = {}
    if WEBHOOK in channels:
        faults[WEBHOOK] = _post(alerts.webhook, text)
    if COMMAND in channels:
        faults[COMMAND] = _run(alerts.command, text, root)
    return [each for each, why in faults.items() if not why], {each: why for each, why in faults.items() if why}


def _post(address: str, text: str) -> str | None:
    """Why the webhook failed. Errors of urllib are not quoted: they contain the address, which may be secret."""
    try:
        request = urllib.request.Request(
            os.path.expandvars(address), text.encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=PATIENCE_S):
            return None
    except urllib.error.HTTPError as error:
        return f"{WEBHOOK} answered {error.code}"
    except (OSError, ValueError, http.client.HTTPException) as error:
        return f"{WEBHOOK} could not be reached: {_kind(error)}"


def _run(command: Sequence[str], text: str, root: Path) -> str | None:
    """Why the command failed. Its output is not quoted if it may contain the value of a variable."""
    words = [os.path.expandvars(word) for word in command]
    try:
        done = subprocess.run(
            words,
            input=text.encode(),
            cwd=root,
            capture_output=True,
            timeout=PATIENCE_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"{COMMAND} did not end within {PATIENCE_S} s"
    except (OSError, ValueError) as error:
        return f"{COMMAND} could not be started: {_kind(error)}"
    if not done.returncode:
        return None
    said = "what it said may hold the value of a variable and is left out"
    if words == list(command):
        said = shorten(done.stderr.decode(errors="replace").strip(), SAID)
    return f"{COMMAND} ended with {done.returncode}: {said}"


def _kind(error: Exception) -> str:
    """The kind of the error, in words that contain nothing of the request."""
    reason = error.reason if isinstance(error, urllib.error.URLError) else error
    number = getattr(reason, "errno", None)
    if isinstance(number, int) and number in errno.errorcode:
        return os.strerror(number)
    return "is it an address with its scheme?" if isinstance(reason, ValueError) else type(reason).__name__


def build_run_alert(root: Path) -> dg.SensorDefinition:
    """The sensor that reports failed runs; on by default, silent without channels in params.yaml."""

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
    """The sensor that reports failed checks, each failure once; on, silent without channels in params.yaml."""

    @dg.sensor(
        name="alert_failed_check",
        description=f"Tells once of every failed check, warnings too, whoever ran its stage ({PARAMS}, alerts).",
        minimum_interval_seconds=INTERVAL_S,
        default_status=dg.DefaultSensorStatus.RUNNING,
    )
    def alert_failed_check(context: dg.SensorEvaluationContext) -> dg.SkipReason:
        known, channels = _read_cursor(context.cursor), named(root)
        kept, told, faults = dict(known), set[str](), dict[str, str]()
        for key, (event, evaluation) in failed_checks(context.instance, checks).items():
            name = key.to_user_string()
            before, *left = known.get(name, [""])
            to = [each for each in (left if before == event else channels) if each in channels]
            if before == event and not to:
                continue
            got, missed = tell(root, _of_check(key, evaluation), to)
            if got or not missed:
                kept[name] = [event, *missed]
                told.add(f"{name}: {'told' if got else NOBODY}")
            faults |= {f"{name}, {channel}": why for channel, why in missed.items()}
        failures = "; ".join(sorted(set(faults.values())))
        if faults and kept == known:
            raise RuntimeError(failures)
        context.update_cursor(json.dumps(kept))  # Dagster keeps no cursor of a tick that raises: the next one does
        return dg.SkipReason("; ".join(filter(None, (*sorted(told), failures))) or "no check has failed since")

    return alert_failed_check


def _read_cursor(cursor: str | None) -> dict[str, list[str]]:
    """Check -> its last reported failure, and the channels that have not got it yet.

    The cursor of earlier versions was a number without that information: then current failures are reported again.
    """
    known = json.loads(cursor) if cursor else {}
    return known if isinstance(known, dict) else {}


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
