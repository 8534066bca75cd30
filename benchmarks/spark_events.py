"""The event log that Spark wrote of a run -> bytes that its tasks shuffled and spilled, as Spark itself counts them."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any


def settings(folder: Path) -> dict[str, str]:
    """Settings of Spark that make it log events: a line for each job, stage and task, one plain file an application."""
    return {
        "spark.eventLog.enabled": "true",
        "spark.eventLog.dir": folder.absolute().as_uri(),
        "spark.eventLog.rolling.enabled": "false",
        "spark.eventLog.compress": "false",
    }


def counted(folder: Path) -> dict[str, int]:
    """The sums over all attempts of all tasks, failed ones too; all zero if no application ran."""
    found = {"tasks": 0, "shuffle_read": 0, "shuffle_written": 0, "spilled": 0}
    for metrics in _tasks(folder):
        read, written = metrics.get("Shuffle Read Metrics", {}), metrics.get("Shuffle Write Metrics", {})
        found["tasks"] += 1
        found["shuffle_read"] += read.get("Remote Bytes Read", 0) + read.get("Local Bytes Read", 0)
        found["shuffle_written"] += written.get("Shuffle Bytes Written", 0)
        found["spilled"] += metrics.get("Disk Bytes Spilled", 0)
    return found


def _tasks(folder: Path) -> Iterator[Mapping[str, Any]]:
    """The metrics of each attempt of a task that ended."""
    for path in sorted(folder.iterdir()):
        with path.open(encoding="utf-8") as lines:
            for line in lines:
                event = json.loads(line)
                if event["Event"] == "SparkListenerTaskEnd":
                    yield event.get("Task Metrics") or {}
