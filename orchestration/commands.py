"""A command of this repository in Dagster: its output is the log, its last line the reason of a failure."""

from collections.abc import Sequence
from pathlib import Path

import dagster as dg

from orchestration.assets import POOL
from orchestration.group import run_group


def run_command(
    context: dg.OpExecutionContext | dg.AssetExecutionContext, name: str, command: Sequence[str], root: Path
) -> None:
    """Run a command in root. It exits 0 done, 2 bad input, 3 refused, and its last line says why."""
    last = "it ended without a word"

    def say(line: str) -> None:
        nonlocal last
        if line.strip():
            last = line
            context.log.info(line)

    if status := run_group(command, cwd=root, say=say):
        raise dg.Failure(f"{name}: {last}", metadata={"exit_code": status})


def build_job(
    root: Path, name: str, command: Sequence[str], *, op_name: str, does: str, description: str
) -> dg.JobDefinition:
    """The job for the repository at root: one op, which no stage of DVC runs beside.

    op_name: its own, since ops, graphs and jobs of one repository must not share one. does: the op's description.
    """

    @dg.op(name=op_name, pool=POOL, description=does)
    def run(context: dg.OpExecutionContext) -> None:
        run_command(context, name, command, root)

    @dg.job(name=name, description=description)
    def job() -> None:
        run()

    return job
