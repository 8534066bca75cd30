"""A message -> the address and the command that params.yaml names (alerts), each within a fixed time.

The message is one JSON object; `text` is what Slack, Mattermost and others show of it.
"""

import errno
import http.client
import json
import os
import queue
import subprocess
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from contracts.errors import shorten
from contracts.params import PARAMS, load_params

SAID = 2000
"""Limit, in characters, of a reason."""
PATIENCE_S = 15
"""How long one channel may take for one message."""
WEBHOOK, COMMAND = "alerts.webhook", "alerts.command"
NOBODY = "alerts.webhook and alerts.command of params.yaml name nobody"


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
        faults[WEBHOOK] = _in_time(lambda: _post(alerts.webhook, text))
    if COMMAND in channels:
        faults[COMMAND] = _run(alerts.command, text, root)
    return [each for each, why in faults.items() if not why], {each: why for each, why in faults.items() if why}


def _in_time(post: Callable[[], str | None]) -> str | None:
    """What post returns. The limit of a socket covers neither the look-up of a name nor an answer in small pieces."""
    answers: queue.SimpleQueue[str | None] = queue.SimpleQueue()
    threading.Thread(target=lambda: answers.put(post()), daemon=True).start()
    try:
        return answers.get(timeout=PATIENCE_S)
    except queue.Empty:
        return f"{WEBHOOK} could not be reached: it did not answer within {PATIENCE_S} s"


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
