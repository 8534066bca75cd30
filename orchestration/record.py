"""dvc.lock and the working files -> Dagster events for what was made, observed and judged outside Dagster.

An event carries its provenance (data versions of its inputs, pointers to their events), so that Dagster can tell stale
from fresh; asset bodies record the same, so it does not matter whether a stage ran in Dagster or by `dvc repro`.
"""

from collections.abc import Collection

import dagster as dg
from dagster import AssetKey

from orchestration.checks import Check, checks_of, judge
from orchestration.crowned import CROWNING, record_champion
from orchestration.figures import metadata, read_report
from orchestration.graph import Graph
from orchestration.internals import (
    CODE_VERSION_TAG,
    DATA_VERSION_IS_USER_PROVIDED_TAG,
    DATA_VERSION_TAG,
    NULL_EVENT_POINTER,
    AssetCheckEvaluationTargetMaterializationData,
    get_input_data_version_tag,
    get_input_event_pointer_tag,
)
from orchestration.partitions import ASSET, record_partitions
from orchestration.versions import Made, observe, read_made


def record(instance: dg.DagsterInstance, graph: Graph, *, but: Collection[str] = ()) -> list[str]:
    """Report everything to Dagster that it does not know yet; returns the reported keys. Raises LockBusy.

    but: steps to skip, because their asset bodies report their outputs themselves.
    """
    told = record_observations(instance, graph)
    mended = failed(instance, graph) & current(graph)
    for made in read_made(graph):
        if made.stage.name not in but:
            told += _record_stage(instance, graph, made, mended)
    told += [] if CROWNING in but else record_champion(instance, graph)
    return told + [f"{ASSET.to_user_string()} {name}" for name in record_partitions(instance, graph)]


def at_work(instance: dg.DagsterInstance) -> set[str]:
    """The steps that Dagster's runs are at: stages whose outputs DVC may have noted, and their runs not yet."""
    runs = instance.get_runs(dg.RunsFilter(statuses=[dg.DagsterRunStatus.STARTED]))
    steps = [step for run in runs for step in instance.get_run_step_stats(run.run_id)]
    return {step.step_key for step in steps if step.start_time and not step.end_time}


def failed(instance: dg.DagsterInstance, graph: Graph) -> set[str]:
    """Outputs that Dagster shows as failed: the last run that should have made them failed before it did."""
    shown = set()
    for record in instance.get_asset_records([AssetKey(out.key) for out in graph.outs]):
        entry = record.asset_entry
        made_by = entry.last_materialization.run_id if entry.last_materialization else None
        if entry.last_run_id and entry.last_run_id != made_by:
            run = instance.get_run_by_id(entry.last_run_id)
            if run is not None and run.status == dg.DagsterRunStatus.FAILURE:
                shown.add(entry.asset_key.to_user_string())
    return shown


def current(graph: Graph) -> set[str]:
    """Outputs that exist and match the present params, modules and inputs."""
    now, fresh = observe(graph), set()
    for made in read_made(graph):
        there = all((graph.root / out.path).exists() for out in made.stage.outs)
        if there and made.cmd == made.stage.cmd and all(now.get(key) == was for key, was in made.inputs.items()):
            fresh |= set(made.versions)
            now |= made.versions
    return fresh


def record_observations(instance: dg.DagsterInstance, graph: Graph) -> list[str]:
    """Report the present versions of params sections and code to Dagster if they are new."""
    told = []
    for key, version in observe(graph).items():
        if _version(_latest(instance, key)) != version:
            tags = {DATA_VERSION_TAG: version, DATA_VERSION_IS_USER_PROVIDED_TAG: "true"}
            instance.report_runless_asset_event(dg.AssetObservation(AssetKey.from_user_string(key), tags=tags))
            told.append(key)
    return told


def provenance(instance: dg.DagsterInstance, made: Made) -> dict[str, str]:
    """The tags of a materialisation: its code version, and the version and the event of every input."""
    tags = {CODE_VERSION_TAG: made.cmd}
    for name, version in made.inputs.items():
        key, event = AssetKey.from_user_string(name), _latest(instance, name)
        tags[get_input_data_version_tag(key)] = version
        tags[get_input_event_pointer_tag(key)] = str(event.storage_id) if event else NULL_EVENT_POINTER
    return tags


def _record_stage(instance: dg.DagsterInstance, graph: Graph, made: Made, mended: Collection[str]) -> list[str]:
    """mended: outs that Dagster knows and shows as failed; only another materialisation takes that away."""
    told = []
    for out, version in made.versions.items():
        event = _latest(instance, out)
        if event is None or out in mended or not _is_known(event, made, version):
            tags = provenance(instance, made)
            tags |= {DATA_VERSION_TAG: version, DATA_VERSION_IS_USER_PROVIDED_TAG: "true"}
            figures = metadata(graph.root, made, out)
            instance.report_runless_asset_event(dg.AssetMaterialization(AssetKey(out), metadata=figures, tags=tags))
            told.append(out)
            for check in checks_of(graph.root, out):
                _record_check(instance, graph, made, check)
    return told


def _record_check(instance: dg.DagsterInstance, graph: Graph, made: Made, check: Check) -> None:
    event = _latest(instance, check.out)
    assert event is not None
    verdict = judge(check, read_report(graph.root, made.stage.report))
    instance.report_runless_asset_event(
        dg.AssetCheckEvaluation(
            asset_key=AssetKey(check.out),
            check_name=check.name,
            passed=verdict.passed,
            metadata=verdict.figures,
            description=verdict.description,
            severity=dg.AssetCheckSeverity.WARN if verdict.warns else dg.AssetCheckSeverity.ERROR,
            blocking=check.blocking,
            target_materialization_data=AssetCheckEvaluationTargetMaterializationData(
                storage_id=event.storage_id, run_id=event.run_id, timestamp=event.timestamp
            ),
        )
    )


def _is_known(event: dg.EventLogRecord, made: Made, version: str) -> bool:
    tags = event.event_log_entry.tags or {}
    inputs = {get_input_data_version_tag(AssetKey.from_user_string(name)): was for name, was in made.inputs.items()}
    wanted = {DATA_VERSION_TAG: version, CODE_VERSION_TAG: made.cmd, **inputs}
    return all(tags.get(tag) == value for tag, value in wanted.items())


def _latest(instance: dg.DagsterInstance, name: str) -> dg.EventLogRecord | None:
    is_observed = name.startswith(("params/", "code/"))
    return instance.get_latest_data_version_record(AssetKey.from_user_string(name), is_source=is_observed)


def _version(event: dg.EventLogRecord | None) -> str | None:
    return (event.event_log_entry.tags or {}).get(DATA_VERSION_TAG) if event else None
