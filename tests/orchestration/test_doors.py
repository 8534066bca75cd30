"""Both doors on the toy repository: what one makes the other knows, and neither makes it again."""

import json
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.definitions.data_version import CachingStaleStatusResolver
from dagster._core.loader import LoadingContextForTest

from orchestration.definitions import build_definitions
from tests.orchestration.conftest import Toy

pytestmark = pytest.mark.filterwarnings(  # Dagster's words about itself
    "ignore::dagster.PreviewWarning",
    "ignore::dagster.BetaWarning",
    "ignore::DeprecationWarning",
)


class Door:
    """Dagster's door to one repository."""

    def __init__(self, root: Path, instance: dg.DagsterInstance) -> None:
        self.instance = instance
        self.definitions = build_definitions(root)
        self.cursor: str | None = None

    def tick(self) -> str:
        """The message of one tick of the sensor."""
        context = dg.build_sensor_context(instance=self.instance, cursor=self.cursor)
        (sensor,) = [each for each in self.definitions.sensors or [] if each.name == "dvc_lock"]
        said = sensor(context)  # type: ignore[operator]
        self.cursor = context.cursor
        assert isinstance(said, dg.SkipReason)
        return str(said.skip_message)

    def materialize(self, *assets: str, params: dict[str, object] | None = None) -> dg.ExecuteInProcessResult:
        """Materialize these assets' stages (none: everything); params are the Launchpad's, for `count`."""
        job = self.definitions.resolve_job_def("everything")
        return job.execute_in_process(
            instance=self.instance,
            asset_selection=[dg.AssetKey(asset) for asset in assets] or None,
            run_config={"ops": {"count": {"config": {"params": params}}}} if params else {},
            raise_on_error=False,
        )

    def statuses(self) -> dict[str, str]:
        """FRESH, STALE or MISSING for every asset that a stage makes."""
        graph = self.definitions.resolve_asset_graph()
        resolver = CachingStaleStatusResolver(self.instance, graph, LoadingContextForTest(self.instance))
        return {key.to_user_string(): resolver.get_status(key).value for key in graph.materializable_asset_keys}

    def verdicts(self) -> dict[str, str]:
        """The newest evaluation of every asset check."""
        keys = list(self.definitions.resolve_asset_graph().asset_check_keys)
        records = self.instance.event_log_storage.get_latest_asset_check_execution_by_key(keys)
        return {f"{key.asset_key.to_user_string()}:{key.name}": record.status.value for key, record in records.items()}

    def latest(self, asset: str) -> dg.AssetMaterialization:
        """The newest materialisation of an asset."""
        event = self.instance.get_latest_materialization_event(dg.AssetKey(asset))
        assert event is not None
        assert event.asset_materialization is not None
        return event.asset_materialization


@pytest.fixture
def door(toy: Toy, instance: dg.DagsterInstance) -> Door:
    return Door(toy.root, instance)


FRESH = dict.fromkeys(["interactions", "names", "totals", "metrics"], "FRESH")


def test_after_dvc_repro_nothing_is_stale_and_dagster_reruns_nothing(made_toy: Toy, door: Door) -> None:
    assert set(door.statuses().values()) == {"MISSING"}
    assert "interactions" in door.tick()
    assert door.statuses() == FRESH
    assert "nothing new" in door.tick()
    assert door.materialize().success
    assert made_toy.runs == ["make", "count", "render"]
    assert door.statuses() == FRESH
    door.cursor = None
    assert door.tick() == "Dagster knew it all"
    figures = door.latest("totals").metadata
    assert figures["total"].value == 6
    assert str(figures["parts"].value).startswith("|  | rows |")
    assert door.latest("interactions").metadata["dropped"].value == "no item_id: 2"


def test_after_dagster_dvc_has_nothing_to_do(toy: Toy, door: Door) -> None:
    assert door.materialize().success
    assert toy.runs == ["make", "count", "render"]
    assert "up to date" in toy.dvc("status")
    toy.dvc("repro")
    assert len(toy.runs) == 3
    assert door.tick() == "Dagster knew it all"
    assert door.statuses() == FRESH


def test_a_changed_param_and_a_changed_module_show_stale_after_a_tick(made_toy: Toy, door: Door) -> None:
    door.tick()
    made_toy.set(audit__min_session_events=3)
    assert door.tick() == "told Dagster of params/audit"
    assert door.statuses() == {**FRESH, "totals": "STALE"}
    made_toy.dvc("repro")
    door.tick()
    assert door.statuses() == FRESH
    (made_toy.root / "toy" / "words.py").write_text('TOO_LARGE = "no"\n')
    assert door.tick() == "told Dagster of code/count"
    assert door.statuses() == {**FRESH, "totals": "STALE"}


def test_another_source_makes_every_stage_stale_and_the_way_back_fresh(made_toy: Toy, door: Door) -> None:
    door.tick()
    made_toy.set(source__name="movielens", source__path="elsewhere")
    door.tick()
    assert set(door.statuses().values()) == {"STALE"}
    made_toy.set(source__name="simulator")
    door.tick()
    assert door.statuses() == FRESH


def test_a_failing_stage_leaves_its_last_outs_and_says_why(made_toy: Toy, door: Door) -> None:
    last, report = made_toy.read("totals/total.txt"), (made_toy.root / "reports/simulator/count.json").read_text()
    made_toy.set(audit__min_session_events=13)
    failed = door.materialize("totals")
    assert not failed.success
    (failure,) = [event for event in failed.all_events if event.is_step_failure]
    data = failure.step_failure_data.user_failure_data
    assert data is not None
    assert "min_session_events is 13, the limit is 12" in str(data.description)
    assert data.metadata["exit_code"].value == 2
    assert made_toy.read("totals/total.txt") == last
    assert (made_toy.root / "reports/simulator/count.json").read_text() == report
    assert json.loads((made_toy.root / "attempts/count/failure.json").read_text())["exit_code"] == 2


def test_the_launchpad_changes_params_yaml_and_only_for_good_values(made_toy: Toy, door: Door) -> None:
    assert door.materialize("totals", params={"audit": {"min_session_events": 5}}).success
    assert "min_session_events: 5" in (made_toy.root / "params.yaml").read_text()
    assert made_toy.read("totals/total.txt") == "11"
    assert door.statuses()["totals"] == "FRESH"
    assert not door.materialize("totals", params={"audit.min_events": 5}).success
    assert made_toy.runs == ["make", "count", "render", "count"]


def test_what_a_stage_says_reaches_dagster_while_it_runs(toy: Toy, door: Door) -> None:
    run = door.materialize("interactions", "names")
    said = [entry.message for entry in door.instance.all_logs(run.run_id)]
    assert any("make done in" in message for message in said)
    again = door.materialize("interactions", "names")
    said = [entry.message for entry in door.instance.all_logs(again.run_id)]
    assert "make: unchanged" in said
    assert not any("did not receive any messages" in message for message in said)


def test_a_failed_check_shows_through_both_doors_and_blocks_the_run(toy: Toy, door: Door) -> None:
    toy.set(serve__clock="now")
    toy.dvc("repro")
    door.tick()
    assert door.verdicts() == {"interactions:rows_add_up": "SUCCEEDED", "metrics:model_is_good_enough": "FAILED"}
    run = door.materialize("metrics")
    assert not run.success
    assert door.latest("metrics").metadata["verdict"].value == "passed: False; reasons: the clock"
    toy.set(serve__clock="log_end")
    assert door.materialize("metrics").success
    assert door.verdicts()["metrics:model_is_good_enough"] == "SUCCEEDED"
