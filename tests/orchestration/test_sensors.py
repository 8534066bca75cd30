"""What starts work by itself once it is switched on: new files, and whatever is out of date."""

import os
import time
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.remote_origin import RegisteredCodeLocationOrigin, RemoteJobOrigin, RemoteRepositoryOrigin
from dagster._core.test_utils import create_run_for_test

from orchestration.sensors import SETTLED_S
from tests.orchestration.conftest import Toy
from tests.orchestration.test_doors import Door

pytestmark = pytest.mark.filterwarnings(  # Dagster's words about itself
    "ignore::dagster.PreviewWarning",
    "ignore::dagster.BetaWarning",
    "ignore::DeprecationWarning",
)


@pytest.fixture
def door(toy: Toy, instance: dg.DagsterInstance) -> Door:
    return Door(toy.root, instance)


class Watched:
    """The sensor on the log's files, ticking."""

    def __init__(self, door: Door) -> None:
        (self.sensor,) = [each for each in door.definitions.sensors or [] if each.name == "new_files"]
        self.instance, self.cursor = door.instance, None

    def tick(self) -> str:
        """The sensor's message; "a run" if it starts one."""
        context = dg.build_sensor_context(instance=self.instance, cursor=self.cursor)
        said = self.sensor(context)  # type: ignore[operator]
        self.cursor = context.cursor
        if isinstance(said, dg.RunRequest):
            assert said.run_key is None  # Dagster starts no second run of a key, however long ago the first was
            return "a run"
        return f"- {said.skip_message}"


def write(path: Path, text: str, age_s: float = SETTLED_S + 5) -> None:
    path.write_text(text)
    os.utime(path, (time.time() - age_s, time.time() - age_s))


def test_a_new_file_that_is_whole_starts_one_run_and_no_second_one(made_toy: Toy, door: Door) -> None:
    log = made_toy.root.parent / "log"
    log.mkdir()
    write(log / "1.csv", "a", age_s=500)
    made_toy.set(source__path=str(log))
    door = Door(made_toy.root, door.instance)
    watched = Watched(door)
    assert watched.tick() == f"- the pipeline has read the 1 files of {log}"
    assert watched.tick() == f"- no new file in {log}"
    write(log / "2.csv", "b", age_s=1)
    assert watched.tick() == f"- {log} is being written to"
    write(log / "2.csv", "b")
    assert watched.tick() == "a run"
    assert watched.tick() == f"- no new file in {log}"
    (log / "1.csv").unlink()
    assert watched.tick() == "a run"
    write(log / "1.csv", "a", age_s=500)
    assert watched.tick() == "a run"


def test_a_file_whose_time_is_of_tomorrow_does_not_hold_the_others_up(made_toy: Toy, door: Door) -> None:
    """From a machine whose clock is ahead, or unpacked in another time zone."""
    log = made_toy.root.parent / "log"
    log.mkdir()
    write(log / "1.csv", "a", age_s=500)
    made_toy.set(source__path=str(log))
    watched = Watched(Door(made_toy.root, door.instance))
    watched.tick()
    write(log / "2.csv", "b", age_s=-86_400)
    assert watched.tick() == "a run"
    assert watched.tick() == f"- no new file in {log}"
    write(log / "3.csv", "c", age_s=1)
    assert watched.tick() == f"- {log} is being written to"


def test_a_run_that_waits_for_its_turn_reads_what_came_meanwhile_and_no_second_one_is_started(
    made_toy: Toy, door: Door
) -> None:
    log = made_toy.root.parent / "log"
    log.mkdir()
    write(log / "1.csv", "a", age_s=500)
    made_toy.set(source__path=str(log))
    watched = Watched(Door(made_toy.root, door.instance))
    watched.tick()
    begun = create_run_for_test(door.instance, job_name="everything", status=dg.DagsterRunStatus.STARTED)
    write(log / "2.csv", "b")
    assert watched.tick() == "a run"  # the one at work may have read the files already
    origin = RemoteJobOrigin(
        RemoteRepositoryOrigin(RegisteredCodeLocationOrigin("here"), "__repository__"), "everything"
    )
    status = dg.DagsterRunStatus.QUEUED
    queued = create_run_for_test(door.instance, job_name="everything", status=status, remote_job_origin=origin)
    write(log / "3.csv", "c")
    assert watched.tick() == f"- run {queued.run_id} waits for its turn and will read the new files of {log}"
    assert watched.tick() == f"- no new file in {log}"
    assert begun.run_id != queued.run_id


def test_switched_on_before_the_first_run_it_runs(toy: Toy, door: Door) -> None:
    log = toy.root.parent / "log"
    log.mkdir()
    toy.set(source__path=str(log))
    watched = Watched(door)
    assert watched.tick() == f"- there is no file in {log}"
    write(log / "1.csv", "a")
    assert watched.tick() == "a run"


def test_what_depends_on_a_change_is_requested_and_nothing_else(made_toy: Toy, door: Door) -> None:
    door.tick()
    asked = dg.evaluate_automation_conditions(door.definitions, door.instance)
    asked = dg.evaluate_automation_conditions(door.definitions, door.instance, cursor=asked.cursor)
    assert asked.total_requested == 0
    made_toy.set(audit__min_session_events=3)
    door.tick()
    asked = dg.evaluate_automation_conditions(door.definitions, door.instance, cursor=asked.cursor)
    wanted = {result.key.to_user_string() for result in asked.results if not result.true_subset.is_empty}
    assert wanted == {"totals", "metrics"}
    assert door.materialize(*sorted(wanted)).success
    asked = dg.evaluate_automation_conditions(door.definitions, door.instance, cursor=asked.cursor)
    assert asked.total_requested == 0
