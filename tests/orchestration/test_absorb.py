"""The job `absorb` runs a program of the house: its lines are the log, its last line the reason, its end the op's."""

import sys
from pathlib import Path

import dagster as dg
import pytest

from orchestration.absorb import COMMAND, build_absorb
from orchestration.definitions import build_definitions

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Dagster's words about itself


def execute(root: Path, script: str) -> tuple[dg.ExecuteInProcessResult, list[str]]:
    """Run the job over a program; its result and the lines in Dagster's log."""
    job = build_absorb(root, (sys.executable, "-c", script))
    with dg.DagsterInstance.ephemeral() as instance:
        result = job.execute_in_process(instance=instance, raise_on_error=False)
        lines = [entry.user_message for entry in instance.all_logs(result.run_id)]
    return result, lines


def test_the_program_runs_in_the_repository_and_its_lines_are_the_log(tmp_path: Path) -> None:
    script = "import os, sys; print('sealed 3 events in', os.getcwd()); print('and a warning', file=sys.stderr)"
    result, lines = execute(tmp_path, script)
    assert result.success
    assert f"sealed 3 events in {tmp_path}" in lines
    assert "and a warning" in lines


@pytest.mark.parametrize("status", [2, 3])
def test_a_program_that_fails_fails_the_op_with_its_last_line_and_its_status(tmp_path: Path, status: int) -> None:
    script = (
        f"import sys; print('looking'); print('absorb failed: the live log is locked'); print(); sys.exit({status})"
    )
    result, _ = execute(tmp_path, script)
    (failure,) = [event.step_failure_data for event in result.all_events if event.is_step_failure]
    assert failure.user_failure_data.description == "absorb: absorb failed: the live log is locked"
    assert failure.user_failure_data.metadata["exit_code"].value == status


def test_a_program_that_fails_silently_says_so(tmp_path: Path) -> None:
    result, _ = execute(tmp_path, "import sys; sys.exit(1)")
    (failure,) = [event.step_failure_data for event in result.all_events if event.is_step_failure]
    assert failure.user_failure_data.description == "absorb: it ended without a word"


def test_absorb_is_in_the_one_pool_and_its_schedule_is_off() -> None:
    repository = build_definitions(ROOT).get_repository_def()
    (op,) = repository.get_job("absorb").nodes
    assert op.definition.pool == "dvc"
    (hourly,) = [each for each in repository.schedule_defs if each.job_name == "absorb"]
    assert (hourly.cron_schedule, hourly.default_status.value) == ("0 * * * *", "STOPPED")
    assert COMMAND[1:] == ("-m", "features.live.absorb")
