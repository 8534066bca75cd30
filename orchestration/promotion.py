"""`make promote` and `make rollback` as Dagster jobs: what is compared, and why or why not, is their log."""

import sys
from collections.abc import Sequence
from pathlib import Path

import dagster as dg

from orchestration.commands import build_job

PROMOTE = (sys.executable, "-m", "serving.promote")
ROLLBACK = (sys.executable, "-m", "serving.rollback")


def build_promote(root: Path, command: Sequence[str] = PROMOTE) -> dg.JobDefinition:
    """The job for the repository at root. Not to promote is no failure: the log says why."""
    return build_job(
        root,
        "promote",
        command,
        op_name="compare_with_champion",
        does="Scores the newest bundle and the champion on the newest requests; the better one is champion.",
        description="The newest bundle takes the champion's place where it does better (reports/<id>/promotion.json).",
    )


def build_rollback(root: Path, command: Sequence[str] = ROLLBACK) -> dg.JobDefinition:
    """The job for the repository at root."""
    return build_job(
        root,
        "rollback",
        command,
        op_name="put_former_champion_back",
        does="Withdraws the champion and puts the former one in its place.",
        description="The former champion comes back; what is withdrawn is promoted again by force alone.",
    )
