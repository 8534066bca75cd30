"""`make absorb` as a Dagster job: live events sealed into files, which the next run of the pipeline ingests."""

import sys
from collections.abc import Sequence
from pathlib import Path

import dagster as dg

from orchestration.commands import build_job

COMMAND = (sys.executable, "-m", "features.live.absorb")


def build_absorb(root: Path, command: Sequence[str] = COMMAND) -> dg.JobDefinition:
    """The job for the repository at root."""
    return build_job(
        root,
        "absorb",
        command,
        op_name="seal_live_events",
        does="Seals what the live log holds into live/<source>/<day>.parquet.",
        description="Live events become files of the log; run `everything` to take them in.",
    )
