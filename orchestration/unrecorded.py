"""dvc.lock and what stages noted -> the stages whose input grew between their end and DVC's record of it.

DVC hashes a stage's deps once its process has ended: rows that were appended to a log in that moment are recorded as
read though the stage had not, and no later run would read them.
"""

from collections.abc import Mapping
from typing import Any

from contracts.inputs import read_now
from orchestration.graph import Graph
from orchestration.timing import noted
from orchestration.versions import read_sizes


def unrecorded(graph: Graph) -> dict[str, list[str]]:
    """Stage -> deps of which dvc.lock records what the stage did not read. Raises LockBusy."""
    found, sizes = {}, read_sizes(graph)
    for stage in graph.stages:
        read: Mapping[str, Any] = noted(graph.root, stage.report).get("read", {})
        recorded = sizes[stage.name]
        deps = [
            dep
            for dep, then in read.items()
            if dep in recorded and recorded[dep] != then["size"] and read_now(dep, graph.root) != then
        ]
        if deps:
            found[stage.name] = deps
    return found
