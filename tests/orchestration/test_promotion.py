"""The jobs `promote` and `rollback` run the project's commands, and never during a stage."""

import json
import shutil
import sys
from pathlib import Path

import dagster as dg
import pytest

from orchestration.crowned import CHAMPION, record_champion
from orchestration.definitions import build_definitions
from orchestration.graph import Graph, Out, Stage
from orchestration.promotion import PROMOTE, ROLLBACK, build_promote, build_rollback
from serving.bundle import manifest

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Dagster's words about itself


@pytest.mark.parametrize(("name", "command"), [("promote", PROMOTE), ("rollback", ROLLBACK)])
def test_both_are_in_the_one_pool_and_have_no_schedule(name: str, command: tuple[str, ...]) -> None:
    repository = build_definitions(ROOT).get_repository_def()
    (op,) = repository.get_job(name).nodes
    assert op.definition.pool == "dvc"
    assert not [each for each in repository.schedule_defs if each.job_name == name]
    assert command[1:] == ("-m", f"serving.{name}")


def test_not_to_promote_is_no_failure_and_says_why(tmp_path: Path) -> None:
    said = "Not promoted for simulator: the newest is worse than the champion"
    job = build_promote(tmp_path, (sys.executable, "-c", f"print({said!r})"))
    with dg.DagsterInstance.ephemeral() as instance:
        result = job.execute_in_process(instance=instance, raise_on_error=False)
        assert result.success
        assert said in [entry.user_message for entry in instance.all_logs(result.run_id)]


def test_a_rollback_without_a_former_champion_fails_with_the_commands_own_words(tmp_path: Path) -> None:
    """The real command, where there is nothing but params.yaml."""
    shutil.copyfile(ROOT / "params.yaml", tmp_path / "params.yaml")
    with dg.DagsterInstance.ephemeral() as instance:
        result = build_rollback(tmp_path).execute_in_process(instance=instance, raise_on_error=False)
    (failure,) = [event.step_failure_data for event in result.all_events if event.is_step_failure]
    assert failure.user_failure_data.description.startswith("rollback: Not rolled back: champions/")
    assert "keeps no former champion to go back to" in failure.user_failure_data.description
    assert failure.user_failure_data.metadata["exit_code"].value == 2


@pytest.fixture
def graph(tmp_path: Path) -> Graph:
    """A pipeline that makes a bundle, with a champion."""
    out = Out("bundle", "data/simulator/bundle", "")
    _crown(tmp_path, "a")
    return Graph(tmp_path, (Stage("package", "", "exec python -m serving.package", (), (), (), (out,), None),))


def _crown(root: Path, letter: str) -> str:
    """Put a champion whose hash is of one letter in its place; its version."""
    bundle = root / "champions/simulator/bundle"
    bundle.mkdir(parents=True, exist_ok=True)
    (bundle / manifest.MANIFEST).write_text(json.dumps({"bundle_hash": letter * 64}))
    return letter * manifest.SHORT


def _report(root: Path, name: str, **content: object) -> None:
    (root / "reports/simulator").mkdir(parents=True, exist_ok=True)
    (root / "reports/simulator" / name).write_text(json.dumps(content))


def test_the_page_shows_the_champion_that_is_served_whoever_crowned_it(graph: Graph) -> None:
    def shown() -> tuple[str, dict[str, object]]:
        event = instance.get_latest_materialization_event(CHAMPION)
        assert event is not None
        assert event.asset_materialization is not None
        found = event.asset_materialization
        return str((found.tags or {})["dagster/data_version"]), {key: one.value for key, one in found.metadata.items()}

    with dg.DagsterInstance.ephemeral() as instance:
        _report(graph.root, "promotion.json", promoted=True, reason="better", candidate={"model_version": "a" * 12})
        assert record_champion(instance, graph) == ["champion"]
        assert record_champion(instance, graph) == []
        version, figures = shown()
        assert (version, figures["reason"]) == ("a" * 12, "better")
        gone, back = _crown(graph.root, "b"), _crown(graph.root, "c")
        _report(graph.root, "rollback.json", champion=back, withdrawn=gone, num_former=1)
        assert record_champion(instance, graph) == ["champion"]
        version, figures = shown()
        assert (version, figures["withdrawn"], figures["model_version"]) == (back, gone, back)
        assert "reason" not in figures
        fetched = _crown(graph.root, "d")  # by `git pull` and `dvc checkout`: the reports are of another champion
        assert record_champion(instance, graph) == ["champion"]
        assert shown() == (fetched, {"model_version": fetched})


def test_without_a_champion_nothing_is_shown(graph: Graph) -> None:
    shutil.rmtree(graph.root / "champions")
    with dg.DagsterInstance.ephemeral() as instance:
        assert record_champion(instance, graph) == []
