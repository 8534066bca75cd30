"""`make absorb` as a Dagster job: live events sealed into files, which the next run of the pipeline ingests."""

import sys
from collections.abc import Sequence
from pathlib import Path

import dagster as dg

from orchestration.assets import POOL
from orchestration.group import run_group

COMMAND = (sys.executable, "-m", "features.live.absorb")


def build_absorb(root: Path, command: Sequence[str] = COMMAND) -> dg.JobDefinition:
    """The job for the repository at root: one op, which no stage of DVC runs beside.

    command: run in root; it exits 0 done, 2 bad input, 3 refused, and its last line says why.
    """

    # the name is its own: ops, graphs and jobs of one repository must not share one
    @dg.op(
        name="seal_live_events",
        pool=POOL,
        description="Seals what the live log holds into live/<source>/<day>.parquet.",
    )
    def absorb_live_events(context: dg.OpExecutionContext) -> None:
        last = "it ended without a word"

        def say(line: str) -> None:
            nonlocal last
            if line.strip():
                last = line
                context.log.info(line)

        if status := run_group(command, cwd=root, say=say):
            raise dg.Failure(f"absorb: {last}", metadata={"exit_code": status}, allow_retries=False)

    @dg.job(name="absorb", description="Live events become files of the log; run `everything` to take them in.")
    def absorb() -> None:
        absorb_live_events()

    return absorb
