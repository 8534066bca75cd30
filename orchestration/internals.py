"""The names of Dagster that this project uses and that Dagster does not declare public: all of them stand here.

tests/orchestration/test_internals.py tries what each is used for, so that an upgrade that changes one is seen there.
"""

from collections.abc import Iterable, Mapping

import dagster as dg
from dagster._core.definitions.asset_checks.asset_check_evaluation import (
    AssetCheckEvaluationTargetMaterializationData,
)
from dagster._core.definitions.data_version import (
    CODE_VERSION_TAG,
    DATA_VERSION_IS_USER_PROVIDED_TAG,
    DATA_VERSION_TAG,
    NULL_EVENT_POINTER,
    get_input_data_version_tag,
    get_input_event_pointer_tag,
)
from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition as AssetJob

__all__ = [
    "CODE_VERSION_TAG",
    "DATA_VERSION_IS_USER_PROVIDED_TAG",
    "DATA_VERSION_TAG",
    "NULL_EVENT_POINTER",
    "AssetCheckEvaluationTargetMaterializationData",
    "AssetJob",
    "failed_checks",
    "get_input_data_version_tag",
    "get_input_event_pointer_tag",
    "versions_by_partition",
]


def versions_by_partition(instance: dg.DagsterInstance, asset: dg.AssetKey) -> Mapping[str, str]:
    """The data version of the newest materialization of every partition of an asset that has one."""
    tags = instance.event_log_storage.get_latest_tags_by_partition(
        asset, dg.DagsterEventType.ASSET_MATERIALIZATION, [DATA_VERSION_TAG]
    )
    return {partition: each[DATA_VERSION_TAG] for partition, each in tags.items() if DATA_VERSION_TAG in each}


def failed_checks(
    instance: dg.DagsterInstance, keys: Iterable[dg.AssetCheckKey]
) -> Mapping[dg.AssetCheckKey, tuple[str, dg.AssetCheckEvaluation]]:
    """The checks whose newest evaluation failed, with that evaluation and what names it among all of the check.

    A record's id alone does not: Dagster gives it when the check is planned, and keeps it for what its run finds later.
    """
    records = instance.event_log_storage.get_latest_asset_check_execution_by_key(list(keys))
    failed = {}
    for key, record in records.items():
        event = record.event.dagster_event if record.event else None
        if record.event is None or event is None or event.event_type != dg.DagsterEventType.ASSET_CHECK_EVALUATION:
            continue  # planned, not judged yet
        if not event.asset_check_evaluation_data.passed:
            failed[key] = (f"{record.id}@{record.event.timestamp}", event.asset_check_evaluation_data)
    return failed
