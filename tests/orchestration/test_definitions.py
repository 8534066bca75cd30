"""The code location: light, in process, everything off that costs without being asked for."""

import json
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import dagster as dg
import pytest

from orchestration.columns import TABLES, column_schema, num_rows
from orchestration.definitions import build_definitions
from orchestration.graph import Graph, read_graph
from orchestration.labels import FRESH, MADE_WITH
from orchestration.partitions import ASSET
from orchestration.promotion import CHAMPION

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Dagster's words about itself
ROOT = Path(__file__).resolve().parents[2]

LOAD = """
import json, resource, sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {heavy}:
            raise ImportError(name + " has no place in the code location")
sys.meta_path.insert(0, Blocked())
from pathlib import Path
from orchestration.definitions import build_definitions
repository = build_definitions(Path.cwd()).get_repository_def()
print(json.dumps({
    "cpu_s": resource.getrusage(resource.RUSAGE_SELF).ru_utime,
    "sensors": {sensor.name: sensor.default_status.value for sensor in repository.sensor_defs},
    "schedules": {schedule.name: schedule.default_status.value for schedule in repository.schedule_defs},
    "executor": repository.get_job("everything").executor_def.name,
}))
"""
HEAVY = ("torch", "lightning", "feast", "great_expectations", "bentoml", "ibis", "duckdb", "pandas")
"""pyarrow (0.14 s) is there for the tables' columns; leaving dvc.lock unread for the graph won more (0.25 s)."""


def test_the_code_location_loads_without_the_heavy_libraries_and_fast() -> None:
    done = subprocess.run(
        [sys.executable, "-c", LOAD.replace("{heavy}", repr(set(HEAVY)))],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    loaded = json.loads(done.stdout.splitlines()[-1])
    assert loaded["cpu_s"] < 3
    silent = {"dvc_lock": "RUNNING", "alert_failed_run": "RUNNING", "alert_failed_check": "RUNNING"}
    assert loaded["sensors"] == {**silent, "new_files": "STOPPED", "out_of_date": "STOPPED"}
    assert set(loaded["schedules"].values()) == {"STOPPED"}
    assert loaded["executor"] == "in_process"


@pytest.fixture(scope="module")
def graph() -> Graph:
    """The real pipeline."""
    return read_graph(ROOT)


@pytest.fixture(scope="module")
def repository() -> dg.RepositoryDefinition:
    """All that Dagster shows of it."""
    return build_definitions(ROOT).get_repository_def()


@pytest.fixture(scope="module")
def specs(repository: dg.RepositoryDefinition) -> dict[str, dg.AssetSpec]:
    """Every asset by its name."""
    nodes = repository.asset_graph.asset_nodes
    return {node.key.to_user_string(): node.to_asset_spec() for node in nodes}  # type: ignore[attr-defined]


def test_all_definitions_are_these(repository: dg.RepositoryDefinition, graph: Graph) -> None:
    """Whoever adds or loses one sees it here."""
    assets = {key.to_user_string() for key in repository.asset_graph.materializable_asset_keys}
    assert assets == {*(out.key for out in graph.outs), "partition_quality", "champion"}
    observed = {f"params/{section}" for section in graph.sections} | {f"code/{stage.name}" for stage in graph.stages}
    assert {key.to_user_string() for key in repository.asset_graph.observable_asset_keys} == observed
    jobs = {job.name for job in repository.get_all_jobs() if not job.name.startswith("__")}
    assert jobs == {"everything", "retrain_and_promote", "absorb", "promote", "rollback", "drift"}
    scheduled = {schedule.name: (schedule.job_name, schedule.cron_schedule) for schedule in repository.schedule_defs}
    assert scheduled == {
        "nightly": ("everything", "0 3 * * *"),
        "weekly_retrain": ("retrain_and_promote", "0 4 * * 0"),
        "hourly_absorb": ("absorb", "0 * * * *"),
        "daily_drift": ("drift", "0 5 * * *"),
    }
    checks = {f"{key.asset_key.to_user_string()}:{key.name}" for key in repository.asset_graph.asset_check_keys}
    single = {"interactions:rows_add_up", "validated_interactions:rows_add_up", "metrics:model_is_good_enough"}
    single |= {f"feature_snapshot:{name}" for name in ("online_equals_offline", "complete", "event_time_lag")}
    single.add("champion:served_looks_like_the_test")
    assert {check for check in checks if ":expectations_" not in check} == single
    assert len(checks) > len(single) + 6


def test_the_job_everything_is_what_dvc_makes_and_retrain_is_the_champion_too(
    repository: dg.RepositoryDefinition, graph: Graph
) -> None:
    made = {dg.AssetKey(out.key) for out in graph.outs}
    assert repository.get_job("everything").asset_layer.selected_asset_keys == made
    assert repository.get_job("retrain_and_promote").asset_layer.selected_asset_keys == made | {CHAMPION}


def test_every_asset_has_an_owner_a_description_technologies_and_its_stage(specs: dict[str, dg.AssetSpec]) -> None:
    for name, spec in specs.items():
        assert spec.description, name
        if not name.startswith(("params/", "code/")):
            assert spec.owners, name
            assert 1 < len(spec.kinds) <= 3, name
            assert spec.tags["stage"], name


def test_every_stage_has_its_technologies_and_no_removed_stage_has_any(graph: Graph) -> None:
    assert set(MADE_WITH) == {stage.name for stage in graph.stages}


def test_every_table_of_the_contracts_has_its_columns_and_comments(
    specs: dict[str, dg.AssetSpec], graph: Graph
) -> None:
    from contracts import schema

    for out in graph.outs:
        columns = specs[out.key].metadata.get("dagster/column_schema")
        assert (out.key in TABLES) == (columns is not None), out.key
        if out.key in TABLES:
            assert [each.name for each in columns.columns] == getattr(schema, TABLES[out.key].schema).names
            assert all(each.description for each in columns.columns), out.key
    columns = column_schema("quarantine")
    assert columns is not None
    label = next(each for each in columns.columns if each.name == "label")
    assert (label.type, label.description) == ("float", "1 clicked, 0 shown but not clicked")
    assert columns.columns[0].constraints.nullable is False
    assert columns.columns[-1].description == "from 1, header included"  # of provenance


def test_rows_are_counted_of_every_file_of_a_table(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    assert num_rows(tmp_path, "interactions") is None
    for day in range(3):
        pq.write_table(pa.table({"x": list(range(day))}), tmp_path / f"{day}.parquet")
    assert num_rows(tmp_path, "interactions") == 3
    assert num_rows(tmp_path, "weights") is None


def test_code_is_one_click_away(specs: dict[str, dg.AssetSpec], graph: Graph) -> None:
    for stage in graph.stages:
        for out in stage.outs:
            module, definition = specs[out.key].metadata["dagster/code_references"].code_references
            assert Path(module.file_path).is_file()
            line = (ROOT / "dvc.yaml").read_text().splitlines()[definition.line_number - 1]
            assert line == f"  {stage.name}:"


def test_only_assets_that_others_depend_on_have_a_freshness_policy(specs: dict[str, dg.AssetSpec]) -> None:
    policies = {name: spec.freshness_policy for name, spec in specs.items() if spec.freshness_policy}
    assert set(policies) == set(FRESH)
    assert policies["bundle"] == dg.FreshnessPolicy.time_window(
        fail_window=timedelta(days=30), warn_window=timedelta(days=8)
    )


def test_partitions_are_backfilled_in_one_run(repository: dg.RepositoryDefinition) -> None:
    node = repository.asset_graph.get(ASSET)
    assert node.backfill_policy == dg.BackfillPolicy.single_run()
    assert node.partitions_def is not None
    assert {key.to_user_string() for key in node.parent_keys} == {"profile"}
