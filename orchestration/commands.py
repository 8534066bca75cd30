"""A command of this repository in Dagster: its output is the log, its last line the reason of a failure."""

from collections.abc import Sequence
from pathlib import Path

import dagster as dg

from contracts.errors import InputError
from contracts.running import waited
from orchestration.assets import POOL
from orchestration.attempt import WAIT_S
from orchestration.group import run_group


def run_command(
    context: dg.OpExecutionContext | dg.AssetExecutionContext, name: str, command: Sequence[str], root: Path
) -> None:
    """Run a command in root. It exits 0 done, 2 bad input, 3 refused, and its last line says why.

    It begins when no other process works there, as the stages do: by itself, for a person, it waits a minute only.
    """
    last = "it ended without a word"

    def say(line: str) -> None:
        nonlocal last
        if line.strip():
            last = line
            context.log.info(line)

    try:
        waited(root, WAIT_S, context.log.info, f"{name} begins")
    except InputError as error:
        raise dg.Failure(f"{name}: {error}") from error
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
