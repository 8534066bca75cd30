"""The jobs `promote` and `rollback` run the project's commands, and never during a stage."""

import shutil
import sys
from pathlib import Path

import dagster as dg
import pytest

from orchestration.definitions import build_definitions
from orchestration.promotion import PROMOTE, ROLLBACK, build_promote, build_rollback

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
