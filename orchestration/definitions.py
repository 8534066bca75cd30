"""dvc.yaml -> all that Dagster shows: assets, checks, jobs, schedules, sensors. What starts work is off at first."""

import warnings
from pathlib import Path

import dagster as dg

from orchestration.absorb import build_absorb
from orchestration.alerts import build_check_alert, build_run_alert
from orchestration.assets import build_assets
from orchestration.checks import checks_of
from orchestration.crowned import BUNDLE, CHAMPION
from orchestration.drift import NAME, build_drift_check
from orchestration.graph import Graph, read_graph
from orchestration.internals import AssetJob
from orchestration.partition_asset import build_partition_asset
from orchestration.partitions import PROFILE
from orchestration.promotion import build_champion, build_promote, build_rollback
from orchestration.sensors import build_new_files, build_out_of_date, build_sensor


def build_definitions(root: Path) -> dg.Definitions:
    """The definitions for the repository at root."""
    graph = read_graph(root)
    made = dg.AssetSelection.assets(*(out.key for out in graph.outs))
    everything = dg.define_asset_job(
        "everything", selection=made, description="The whole pipeline, as `dvc repro` would run it."
    )
    jobs, schedules = _beside(root, everything)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", dg.BetaWarning)  # Dagster's own, about observable_source_asset
        assets = build_assets(graph)
    more = _more_assets(root, graph)
    checks = [
        dg.AssetCheckKey(dg.AssetKey(out.key), check.name) for out in graph.outs for check in checks_of(root, out.key)
    ]
    looks: list[dg.AssetChecksDefinition] = []
    if any(CHAMPION in each.keys for each in more):
        drift = dg.AssetSelection.checks(dg.AssetCheckKey(CHAMPION, NAME))
        retrain = dg.define_asset_job(
            "retrain_and_promote",
            selection=(made | dg.AssetSelection.assets(CHAMPION)) - drift,
            description="The whole pipeline, and then the newest bundle against the champion; a model that evaluate "
            "fails is not compared.",
        )
        look = dg.define_asset_job("drift", selection=drift, description="Does what is served look like the test?")
        jobs += [retrain, look]
        schedules.append(_schedule("weekly_retrain", retrain, "0 4 * * 0", "A new model every Sunday, if it is better"))
        schedules.append(_schedule("daily_drift", look, "0 5 * * *", "What was served yesterday beside the test"))
        looks.append(build_drift_check(root))
        checks += [key for each in looks for key in each.check_keys]
    return dg.Definitions(
        assets=[*assets, *more],
        asset_checks=looks,
        jobs=[everything, *jobs],
        schedules=schedules,
        sensors=[
            build_sensor(root),
            build_new_files(root, everything),
            build_out_of_date(made),
            build_run_alert(root),
            build_check_alert(root, checks),
        ],
        executor=dg.in_process_executor,  # a process a step costs seconds; the stages are processes of their own
    )


def _more_assets(root: Path, graph: Graph) -> list[dg.AssetsDefinition]:
    """What is no output of DVC, where the pipeline has what it is made of: every partition's quality, the champion."""
    makers = {out.key: stage for stage in graph.stages for out in stage.outs}
    more = []
    if PROFILE in makers:
        more.append(build_partition_asset(root, makers[PROFILE]))
    if BUNDLE in makers:
        more.append(build_champion(root, makers[BUNDLE]))
    return more


def _beside(root: Path, everything: AssetJob) -> tuple[list, list[dg.ScheduleDefinition]]:
    """The commands as jobs, and what runs by the clock."""
    absorb = build_absorb(root)
    schedules = [
        _schedule("nightly", everything, "0 3 * * *", "The whole pipeline every night"),
        _schedule("hourly_absorb", absorb, "0 * * * *", "Live events sealed every hour, for the next run to ingest"),
    ]
    return [absorb, build_promote(root), build_rollback(root)], schedules


def _schedule(name: str, job: AssetJob | dg.JobDefinition, cron: str, does: str):
    return dg.ScheduleDefinition(
        name=name,
        job=job,
        cron_schedule=cron,
        execution_timezone="UTC",
        description=f"{does}; off until switched on here.",
    )


@dg.definitions
def defs() -> dg.Definitions:
    """What `dagster dev` loads: the repository that holds this file."""
    return build_definitions(Path(__file__).resolve().parents[1])
