"""dvc.lock records what a stage actually read, whatever changes in params.yaml or the code meanwhile."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from ruamel.yaml import YAML

from contracts.running import RWLOCK
from orchestration.attempt import repro
from orchestration.stale import clear_stale
from tests.orchestration.conftest import Toy

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes are looked up in /proc")

COUNT = ("dvc", "repro")
RUN = ("orchestration.reproduce",)


def edit(toy: Toy, old: str, new: str) -> None:
    """As a person would, in an editor."""
    path = toy.root / "params.yaml"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def locked(toy: Toy, stage: str) -> dict:
    return YAML(typ="safe").load(toy.root / "dvc.lock")["stages"].get(stage, {})


def ends(process: "subprocess.Popen[str]") -> str:
    said, _ = process.communicate(timeout=120)
    return said


@pytest.mark.parametrize("command", [COUNT, RUN])
def test_dvc_lock_never_says_a_parameter_that_the_stage_did_not_read(toy: Toy, command: tuple[str, ...]) -> None:
    with toy.held(*command) as process:
        edit(toy, "min_session_events: 2", "min_session_events: 3")
        edit(toy, "block_size: 8", "block_size: 9")
    said = ends(process)
    assert process.returncode != 0
    assert "changed while count ran: audit.min_session_events (2 when it began, 3 now), request.block_size" in said
    assert locked(toy, "count") == {}
    assert not (toy.root / "data/simulator/totals").exists()
    toy.dvc("repro")
    assert toy.read("totals/total.txt") == str(6 + 3)
    assert locked(toy, "count")["params"]["params.yaml"]["audit"]["min_session_events"] == 3


def test_a_module_edited_and_a_table_written_while_a_stage_runs_are_no_record(made_toy: Toy) -> None:
    made_toy.set(audit__min_session_events=4)
    with made_toy.held(*RUN) as process:
        (made_toy.root / "toy/words.py").write_text('TOO_LARGE = "no"\n')
        table = made_toy.root / "data/simulator/interactions/numbers.txt"
        table.chmod(0o644)
        table.unlink()
        table.write_text("100")
    said = ends(process)
    assert process.returncode == 2, said
    assert "data/simulator/interactions/numbers.txt, toy/words.py" in said
    assert locked(made_toy, "count")["params"]["params.yaml"]["audit"]["min_session_events"] == 2


GROWS = """
import atexit
from pathlib import Path
from contracts.publish import publish
from contracts.stage import Report, main

def run(data: Path, seed: int) -> Report:
    log = Path("log.csv")
    rows = log.read_text().split()
    with publish(data, "interactions", "names") as staging:
        (staging / "interactions" / "numbers.txt").write_text("\\n".join(rows))
        (staging / "names" / "names.txt").write_text("zero one")
    if Path("held").exists():  # somebody appends a row before DVC, which waits for this process to end, looks again
        atexit.register(log.write_text, log.read_text() + "4\\n")
    return {"rows_read": len(rows)}

if __name__ == "__main__":
    main(run)
"""


def test_rows_that_come_before_dvc_has_recorded_what_a_stage_read_are_read_by_the_next_run(toy: Toy) -> None:
    (toy.root / "toy/make.py").write_text(GROWS)
    pipeline = toy.root / "dvc.yaml"
    pipeline.write_text(pipeline.read_text().replace("deps: [toy/make.py]", "deps: [toy/make.py, log.csv]"))
    (toy.root / "log.csv").write_text("1\n2\n")
    (toy.root / "held").touch()
    first = toy.python(*RUN)
    assert first.returncode == 0, first.stdout + first.stderr
    assert toy.read("interactions/numbers.txt").split() == ["1", "2"]
    (toy.root / "held").unlink()
    second = toy.python(*RUN)
    assert second.returncode == 0, second.stdout + second.stderr
    assert "log.csv changed when make had read it, and DVC recorded it as read: make runs again." in second.stdout
    assert toy.read("interactions/numbers.txt").split() == ["1", "2", "4"]
    assert toy.read("totals/total.txt") == str(1 + 2 + 4 + 2)
    third = toy.python(*RUN)
    assert "0 of 3 stages ran" in third.stdout
    assert "runs again" not in third.stdout
    (toy.root / "log.csv").write_text("5\n")  # a change that DVC sees
    fourth = toy.python(*RUN)
    assert "3 of 3 stages ran" in fourth.stdout
    assert "runs again" not in fourth.stdout


def test_another_source_between_two_stages_is_refused_and_nothing_is_written_there(toy: Toy) -> None:
    with toy.held(*COUNT) as process:
        edit(toy, "name: simulator ", "name: table ")
        edit(toy, "id: simulator ", "id: shop ")
    said = ends(process)
    assert process.returncode != 0
    assert "params.yaml names the source shop now, but DVC began this run for another (simulator)" in said
    assert not (toy.root / "data/shop").exists()
    assert set(locked(toy, "count")["params"]["params.yaml"]) == {"audit", "request"}


def test_make_set_waits_for_a_running_command_and_says_so(toy: Toy) -> None:
    with toy.held(*COUNT) as process:
        change = subprocess.Popen(
            [sys.executable, "-m", "orchestration.configure", "audit.min_session_events=5"],
            cwd=toy.root,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert change.stdout is not None
        first = change.stdout.readline()
        assert first.startswith("Waiting for count (process ")
        assert "min_session_events: 2" in (toy.root / "params.yaml").read_text()
    ends(process)
    assert process.returncode == 0
    assert ends(change) == "audit.min_session_events: 2 -> 5\n"
    assert locked(toy, "count")["params"]["params.yaml"]["audit"]["min_session_events"] == 2


def test_a_second_run_waits_for_the_first_and_then_has_its_own_way(toy: Toy) -> None:
    with toy.held(*RUN) as first:
        second = subprocess.Popen(
            [sys.executable, "-m", *RUN, "audit.min_session_events=5"],
            cwd=toy.root,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert second.stdout is not None
        assert f"Waiting for a run of the pipeline (process {first.pid})" in second.stdout.readline()
    assert "3 of 3 stages ran" in ends(first)
    assert "2 of 3 stages ran" in ends(second)
    assert toy.read("totals/total.txt") == str(6 + 5)


def test_the_running_command_is_named_without_blaming_a_stage(made_toy: Toy) -> None:
    made_toy.set(audit__min_session_events=4)
    with made_toy.held("toy.count") as direct:
        attempt = repro(made_toy.root, say=print, wait_s=0.2)
        assert attempt.reason is not None
        assert (attempt.reason.stage, attempt.reason.exit_code) == (None, 2)
        assert attempt.reason.message.startswith(
            f"count (process {direct.pid}) is still running after 0.2 s of waiting."
        )
    ends(direct)


def dvc_of(process: "subprocess.Popen[str]") -> psutil.Process:
    (dvc,) = psutil.Process(process.pid).children()
    assert "repro" in dvc.cmdline()
    return dvc


def test_a_killed_dvc_is_reported_with_the_running_stage(made_toy: Toy) -> None:
    made_toy.set(audit__min_session_events=4, serve__clock="now")
    with made_toy.held(*RUN) as process:
        dvc_of(process).send_signal(signal.SIGKILL)
        said = ends(process)
    assert process.returncode == 1
    assert "count failed: DVC was killed (SIGKILL) while count ran. Run it again to go on." in said
    assert made_toy.read("totals/total.txt") == "8"  # the last good output
    made_toy.dvc("repro")


def test_a_killed_stage_is_reported_as_killed(made_toy: Toy) -> None:
    made_toy.set(audit__min_session_events=4)
    with made_toy.held(*RUN) as process:
        (stage,) = dvc_of(process).children()
        stage.send_signal(signal.SIGKILL)
        said = ends(process)
    assert "count failed: it was killed (SIGKILL; where nobody did that, memory ran out)." in said


def test_a_stage_that_is_done_is_not_blamed_for_what_comes_after_it(toy: Toy) -> None:
    def kill(line: str) -> None:
        if line.startswith("Updating lock file"):
            lock = toy.root / "dvc.lock"
            while not lock.exists() or "  make:" not in lock.read_text():
                time.sleep(0.01)
            for child in psutil.Process().children():
                if child.status() != psutil.STATUS_ZOMBIE and "repro" in child.cmdline():
                    child.kill()

    attempt = repro(toy.root, say=kill)
    assert attempt.reason is not None
    assert attempt.reason.stage in (None, "count")
    assert toy.runs[0] == "make"
    assert locked(toy, "make")


def test_a_stale_lock_with_a_reused_process_id_does_not_block(made_toy: Toy) -> None:
    made_toy.set(audit__min_session_events=4)
    totals, numbers = (str(made_toy.root / "data/simulator" / name) for name in ("totals", "interactions"))
    killed = {"pid": os.getpid(), "cmd": "/somewhere/bin/dvc repro"}  # we are not that
    rwlock = made_toy.root / RWLOCK
    rwlock.write_text(json.dumps({"write": {totals: killed}, "read": {numbers: [killed]}}))
    began = time.monotonic()
    done = made_toy.python(*RUN)
    assert done.returncode == 0, done.stderr
    assert time.monotonic() - began < 60
    assert made_toy.read("totals/total.txt") == str(6 + 4)


def test_only_what_is_stale_is_taken_out_of_dvcs_locks(toy: Toy) -> None:
    living = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)", "/x/dvc", "repro"])
    infos = [{"pid": living.pid, "cmd": "/x/dvc repro"}, {"pid": os.getpid(), "cmd": "/x/dvc repro"}]
    rwlock = toy.root / RWLOCK
    rwlock.parent.mkdir(exist_ok=True)
    rwlock.write_text(json.dumps({"write": {"/a": infos[1], "/b": infos[0]}, "read": {"/c": infos, "/d": infos[1:]}}))
    try:
        assert clear_stale(toy.root) == 1
        assert json.loads(rwlock.read_text()) == {"write": {"/b": infos[0]}, "read": {"/c": infos[:1]}}
        assert clear_stale(toy.root) == 0
    finally:
        living.kill()
        living.wait()


def test_an_experiment_changes_one_line_of_params_yaml(toy: Toy) -> None:
    root: Path = toy.root
    for command in (
        ["git", "add", "-A"],
        ["git", "-c", "user.name=t", "-c", "user.email=t@localhost", "commit", "-qm", "all"],
    ):
        subprocess.run(command, cwd=root, check=True)
    before = (root / "params.yaml").read_text().splitlines()
    words = ["-S", "audit.min_session_events=7", "-S", "source.columns.label=liked", "-S", "model.hidden=[8,4]"]
    toy.dvc("exp", "run", *words)
    after = (root / "params.yaml").read_text().splitlines()
    new = [line for line in after if line not in before]
    assert [line.split("#")[0].rstrip() for line in new] == [
        "    label: liked",
        "  min_session_events: 7",
        "  - 8",
        "  - 4",
    ]
    assert len(after) == len(before)
    assert toy.read("totals/total.txt") == str(6 + 7)
    toy.set(audit__min_session_events=2, source__columns__label=None, model__hidden=[64, 32])
    assert (root / "params.yaml").read_text().splitlines() == before
