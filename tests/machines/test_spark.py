"""Spark on three machines writes the bytes of one process, also if one of them is cut off or loses its power."""

import pickle
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from benchmarks.scale import write_log
from features.engine.engine import HERE
from features.terms.params import EngineParams
from tests.clones import ROOT
from tests.features import engine_run, loads
from tests.features.engine.test_load_on_spark import ROWS_AT_ONCE, snapshots
from tests.features.engine.test_spark import (
    FIRST_PIECES,
    NUM_DAYS,
    NUM_ITEMS,
    NUM_ROWS,
    NUM_USERS,
    RANGE_ROWS,
    SMALLER,
    arrivals,
)
from tests.features.engine_run import Work, outs_of
from tests.features.loads import Held, Loads
from tests.features.raw_logs import COLUMNS, SMALL, limits, source
from tests.features.small_log import history, request
from tests.machines.machines import Machine
from tests.machines.spark_machines import PYTHON, start_spark, tasks_of

pytestmark = [pytest.mark.xdist_group("machines"), pytest.mark.slow]

LIMIT_S = 420.0
REDIS = 6379


class Asked:
    """A program of the tests on a machine, and its folder, which it shares."""

    def __init__(
        self, machine: Machine, module: Any, folder: Path, works: Sequence[Any], engine: EngineParams, online: str = ""
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / module.ASKED).write_bytes(pickle.dumps((works, engine)))
        self.folder, self._module = folder, module
        variables = (f"LEITMOTIF_ONLINE={online}",) if online else ()
        words = ("env", *variables, PYTHON, "-m", module.__name__, str(guest(folder)))
        self._process = machine.start(folder / module.SAID, *words)

    @property
    def said(self) -> str:
        return (self.folder / self._module.SAID).read_text()

    def until(self, is_so: Callable[[], bool]) -> None:
        deadline = time.monotonic() + LIMIT_S
        while not is_so():
            assert time.monotonic() < deadline, self.said[-4000:]
            assert self._process.poll() is None, self.said[-4000:]
            time.sleep(0.01)

    def ended(self) -> int:
        """Its exit status, once it has ended."""
        return self._process.wait(LIMIT_S)

    def finish(self) -> str:
        """Its output, once it has ended well."""
        assert self.ended() == 0, self.said[-6000:]
        return self.said


def guest(path: Path) -> Path:
    """A path below the shared clone, as the machines see it."""
    (root,) = (each for each in path.parents if (each / "dvc.yaml").exists())
    return ROOT / path.relative_to(root)


def test_all_stages_on_three_machines_write_the_bytes_of_one_process(machines, shared: Path, tmp_path: Path) -> None:
    arrivals(shared / "arrivals")
    table = source("table", ROOT / "arrivals", {**COLUMNS, "event_id": "event"})
    works = [
        Work(
            each.name,
            SMALLER | {"source": each, "simulator": SMALL, "validate": limits(max_id_length=256)},
            range_rows=2_000, chunk_rows=5_000,
        )
        for each in (table, source("simulator"))
    ]  # fmt: skip
    three = machines(3)
    here = Asked(three[0], engine_run, shared / "one", works, HERE)
    engine = start_spark(three, tmp_path)
    spark = Asked(three[0], engine_run, shared / "three", works, engine)
    said = spark.finish()
    here.finish()
    for work in works:
        one, many = (outs_of(work.data(each.folder)) for each in (here, spark))
        assert one == many, work.name
        assert {"user_histories", "coclicks", "shift_audit", "feature_snapshot"} <= one.keys()
    reports = [pickle.loads((each.folder / "reports.pickle").read_bytes()) for each in (here, spark)]
    assert reports[0] == reports[1]
    assert "histories of ranges of users: " in said
    assert min(tasks_of(machine) for machine in three.all[1:]) > 10, "both of the others work"


def test_a_machine_cut_off_in_the_middle_of_a_job_changes_no_byte(machines, shared: Path, tmp_path: Path) -> None:
    """It goes on writing into the shared folder, while its tasks run a second time elsewhere."""
    work = Work("log", {"request": request(), "history": history()}, ("histories",), RANGE_ROWS)
    for name in ("uncut", "cut"):
        write_log(work.data(shared / name), NUM_ROWS, NUM_DAYS, NUM_USERS, NUM_ITEMS)
    work.run(shared / "uncut")
    three = machines(3)
    cut = Asked(three[0], engine_run, shared / "cut", [work], start_spark(three, tmp_path))
    kept = cut.folder / "log" / ".cache" / "histories" / "log"
    cut.until(lambda: len(list(kept.glob("*/entry.json"))) >= FIRST_PIECES)
    assert len(list(kept.glob("*/entry.json"))) < NUM_DAYS
    three[1].unplug()
    said = cut.finish()
    assert "Lost executor" in said
    assert f"sorting partitions: {NUM_DAYS} tasks on Spark" in said
    assert outs_of(work.data(cut.folder)) == outs_of(work.data(shared / "uncut"))


def test_a_load_into_redis_by_machines_of_which_one_loses_its_power_holds_what_one_process_loads(
    machines, shared: Path, tmp_path: Path
) -> None:
    root = shared / "load"
    made_of, made = snapshots(root, num_users=3_000, num=1)
    three = machines(3)
    redis = ("redis-server", "--port", str(REDIS), "--bind", "*", "--protected-mode", "no", "--save", "")
    three[0].start(tmp_path / "redis", *redis)

    def load(name: str, number: int) -> Loads:
        state = guest(root / name / ".state" / "table" / "feast")
        return Loads(guest(made_of.data), [guest(each) for each in made], [(REDIS, number)], ROWS_AT_ONCE, state)

    engine, online = start_spark(three, tmp_path), f"{three[0].address}:{REDIS}"
    asked = Asked(three[0], loads, root / "spark", [load("spark", 0)], engine, online)

    def is_part_loaded() -> bool:
        with three[0].here():
            return len(loads.held_by([(REDIS, 0)], "table")) > 600

    asked.until(is_part_loaded)
    assert not (asked.folder / loads.DONE).exists()
    three[1].power_off()
    assert "Lost executor" in asked.finish()
    held: list[Held] = pickle.loads((asked.folder / loads.DONE).read_bytes())[0]
    with three[0].here():
        loads.redis.Redis(port=REDIS).flushall()
    here = Asked(three[0], loads, root / "here", [load("here", 0)], HERE, online)
    here.finish()
    assert held == pickle.loads((here.folder / loads.DONE).read_bytes())[0]
    assert len(held[0]) > 2_500
