"""dvc.yaml -> everything that Dagster shows: assets, checks, four jobs, two schedules, one sensor."""

import warnings
from pathlib import Path

import dagster as dg

from orchestration.absorb import build_absorb
from orchestration.assets import build_assets
from orchestration.graph import read_graph
from orchestration.promotion import build_promote, build_rollback
from orchestration.sensors import build_sensor


def build_definitions(root: Path) -> dg.Definitions:
    """The definitions for the repository at root."""
    everything = dg.define_asset_job(
        "everything", selection=dg.AssetSelection.all(), description="The whole pipeline, as `dvc repro` would run it."
    )
    nightly = dg.ScheduleDefinition(
        name="nightly",
        job=everything,
        cron_schedule="0 3 * * *",
        execution_timezone="UTC",
        description="The whole pipeline every night; off until switched on here.",
    )
    absorb = build_absorb(root)
    hourly = dg.ScheduleDefinition(
        name="hourly_absorb",
        job=absorb,
        cron_schedule="0 * * * *",
        execution_timezone="UTC",
        description="Live events sealed every hour, for the next run to ingest; off until switched on here.",
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", dg.BetaWarning)  # Dagster's own, about observable_source_asset
        assets = build_assets(read_graph(root))
    return dg.Definitions(
        assets=assets,
        jobs=[everything, absorb, build_promote(root), build_rollback(root)],
        schedules=[nightly, hourly],
        sensors=[build_sensor(root)],
        executor=dg.in_process_executor,  # a process a step costs seconds; the stages are processes of their own
    )


@dg.definitions
def defs() -> dg.Definitions:
    """What `dagster dev` loads: the repository that holds this file."""
    return build_definitions(Path(__file__).resolve().parents[1])
