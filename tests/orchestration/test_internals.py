"""Dagster's private names that we use still work; an upgrade that changes one fails here."""

import re
from pathlib import Path

import dagster as dg
from dagster._core.test_utils import instance_for_test

from orchestration.internals import (
    CODE_VERSION_TAG,
    DATA_VERSION_TAG,
    failed_checks,
    get_input_data_version_tag,
    versions_by_partition,
)

ROOT = Path(__file__).resolve().parents[2]
KEY = dg.AssetKey("day")


def test_no_other_module_of_ours_imports_what_is_private() -> None:
    private = re.compile(r"^\s*(from|import) dagster\._", re.M)
    modules = {path.name for path in (ROOT / "orchestration").glob("*.py") if private.search(path.read_text())}
    assert modules == {"internals.py"}


def test_the_tags_are_those_of_dagsters_documentation() -> None:
    assert (DATA_VERSION_TAG, CODE_VERSION_TAG) == ("dagster/data_version", "dagster/code_version")
    assert get_input_data_version_tag(KEY) == "dagster/input_data_version/day"


def test_the_newest_version_of_each_partition() -> None:
    with instance_for_test() as instance:
        for day, version in (("1", "a"), ("2", "b"), ("1", "c")):
            tags = {DATA_VERSION_TAG: version}
            instance.report_runless_asset_event(dg.AssetMaterialization(KEY, partition=day, tags=tags))
        assert versions_by_partition(instance, KEY) == {"1": "c", "2": "b"}


def test_only_checks_whose_newest_evaluation_failed() -> None:
    with instance_for_test() as instance:
        for name, passed in (("mended", False), ("mended", True), ("broken", True), ("broken", False)):
            instance.report_runless_asset_event(
                dg.AssetCheckEvaluation(asset_key=KEY, check_name=name, passed=passed, metadata={}, description=name)
            )
        keys = [dg.AssetCheckKey(KEY, name) for name in ("mended", "broken", "never")]
        ((key, (event, evaluation)),) = failed_checks(instance, keys).items()
    assert (key.name, evaluation.description) == ("broken", "broken")
    assert event
