"""A Redis Cluster on three machines of which one is cut off: what is acknowledged stays, on whichever side it was."""

import pickle
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
import redis

from contracts.errors import InputError
from features.engine.engine import HERE
from features.live.open_tail import prefix_of
from features.live.places import state_of
from features.live.redis import RedisTail
from tests.clones import ROOT
from tests.features import loads
from tests.features.engine.test_load_on_spark import ROWS_AT_ONCE, snapshots
from tests.features.live_tails import event
from tests.features.loads import Loads
from tests.machines.machines import Machine
from tests.machines.redis_machines import Spread, rows_of, until
from tests.machines.test_spark import PYTHON, Asked, guest
from tests.prepared import copied, prepared

pytestmark = [pytest.mark.xdist_group("machines"), pytest.mark.slow]

CUT_OFF_S = 20.0
CLICK = {"events": [{"user_id": "u00001", "item_id": "i00001", "event_id": "click"}]}
ALONE = 6379


class Writer:
    """Appends live events on a machine, one after another, and remembers which were acknowledged, and when."""

    def __init__(self, machine: Machine, address: str, prefix: str, name: str) -> None:
        self.acknowledged: dict[str, float] = {}
        self._told = (machine, address, prefix, name)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._write)
        self._thread.start()

    def _write(self) -> None:
        machine, address, prefix, name = self._told
        with machine.here():
            tail, number = RedisTail(address, prefix), 0
            while not self._ended.wait(0.02):
                try:
                    tail.append([event(f"{name}-{number}", user=f"{name}{number % 5}")])
                except InputError:
                    continue  # the same again
                self.acknowledged[f"{name}-{number}"] = time.monotonic()
                number += 1
            tail.close()

    def end(self) -> None:
        self._ended.set()
        self._thread.join()

    def has_some_since(self, moment: float) -> bool:
        return max(self.acknowledged.values(), default=0.0) > moment


@contextmanager
def served(machine: Machine, address: str, said: Path) -> Iterator[httpx.Client]:
    """`bentoml serve` there, until it is ready."""
    told = (f"LEITMOTIF_ONLINE={address}", f"BENTOML_HOME={ROOT}/.bentoml-there", "BENTOML_DO_NOT_TRACK=true")
    process = machine.start(said, "env", *told, "bentoml", "serve", "serving.service:Leitmotif", "--port", "3000")
    with machine.here(), httpx.Client(base_url="http://127.0.0.1:3000", timeout=30) as client:

        def is_ready() -> bool:
            assert process.poll() is None, said.read_text()[-4000:]
            try:
                return client.get("/readyz").status_code == 200
            except httpx.TransportError:
                return False

        until(is_ready, 180)
        yield client


def cut_off(there: Machine, client: httpx.Client, rank: Callable[[], dict], writers: list[Writer]) -> None:
    """Pull the cable of the machine that has the live events' primary, and put it back. writers: elsewhere, there."""
    length = rank()["length"]
    there.unplug()
    began = time.monotonic()
    until(lambda: rank()["store_away"])
    assert client.post("/events", json=CLICK).status_code == 503
    until(lambda: not rank()["store_away"])
    until(lambda: client.post("/events", json=CLICK).status_code == 200)
    took = time.monotonic() - began
    assert took < CUT_OFF_S, f"the others took over after {took:.1f} s"
    assert rank()["length"] == length + 1
    until(lambda: writers[0].has_some_since(began + took))
    time.sleep(max(0.0, began + CUT_OFF_S - time.monotonic()))
    out = max(writers[1].acknowledged.values())
    assert out < began + 1, "without a replica's confirmation nothing is acknowledged"
    there.plug()
    healed = time.monotonic()
    until(lambda: all(each.has_some_since(healed) for each in writers))


def test_a_machine_cut_off_loses_nothing_acknowledged_and_acknowledges_nothing_that_is_lost(
    machines, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    house = copied(prepared(tmp_path_factory), tmp_path / "house")
    for name in ("bin", "lib", "lib64", "include", "share", "pyvenv.cfg"):  # the machines see the real one instead
        (house / ".venv" / name).unlink(missing_ok=True)
    three = machines(3, house)
    spread = Spread(three, tmp_path)
    three[0].run("env", f"LEITMOTIF_ONLINE={spread.address}", PYTHON, "-m", "features.online.load")
    prefix = prefix_of(state_of(house / "data" / "simulator"))
    cut = spread.place_of(f"{{{prefix}}}:log")
    here, there = three[(cut + 1) % 3], three[cut]
    ask = {"user_id": "u00001", "candidates": ["i00001", "i00002", "i00003"], "preview": True}
    with served(here, spread.address, tmp_path / "served") as client:

        def rank() -> dict:
            answer = client.post("/rank", json=ask)
            assert answer.status_code == 200, answer.text
            return answer.json()["history"]

        before = rank()
        assert (before["known"], before["store_away"]) == (True, False)
        writers = [Writer(each, spread.address, prefix, name) for each, name in ((here, "in"), (there, "out"))]
        try:
            until(lambda: all(len(each.acknowledged) > 20 for each in writers))
            cut_off(there, client, rank, writers)
            until(spread.is_whole)
        finally:
            for each in writers:
                each.end()
        with here.here():
            tail = RedisTail(spread.address, prefix)
            stored = [each.event_id for _, each in tail.since(0)]
            tail.close()
        assert len(stored) == len(set(stored))
        assert {*writers[0].acknowledged, *writers[1].acknowledged, "click"} <= set(stored)
        assert client.post("/events", json=CLICK).json()["events"][0]["fate"] == "repeated"
        assert client.get("/readyz").status_code == 200
        assert spread.place_of(f"{{{prefix}}}:log") != cut


def test_a_load_during_which_a_machine_is_cut_off_fails_and_the_next_one_is_whole(
    machines, shared: Path, tmp_path: Path
) -> None:
    root = shared / "cut-load"
    made_of, made = snapshots(root, num_users=3_000, num=1)
    three = machines(3)
    spread = Spread(three, tmp_path)
    state = guest(root / "there" / ".state" / "table" / "feast")
    load = Loads(guest(made_of.data), [guest(made[0])], [], ROWS_AT_ONCE, state)
    cut = Asked(three[0], loads, root / "there", [load], HERE, online=spread.address)
    cut.until(lambda: len(spread.rows("table")) > 300)
    assert not (cut.folder / loads.DONE).exists()
    three[1].unplug()
    assert cut.ended() != 0
    assert "InputError" in cut.said.splitlines()[-1]
    three[1].plug()
    until(spread.is_whole)
    again = Asked(three[0], loads, root / "there", [load], HERE, online=spread.address)
    again.finish()

    told = ("redis-server", "--port", str(ALONE), "--save", "", "--appendonly", "yes", "--dir", "/var/tmp")
    three[0].start(tmp_path / "alone", *told)
    state = guest(root / "alone" / ".state" / "table" / "feast")
    one = Loads(guest(made_of.data), [guest(made[0])], [(ALONE, 0)], ROWS_AT_ONCE, state)
    alone = Asked(three[0], loads, root / "alone", [one], HERE, online=f"127.0.0.1:{ALONE}")
    alone.finish()
    assert pickle.loads((alone.folder / loads.DONE).read_bytes())
    with three[0].here(), redis.Redis(port=ALONE) as client:
        expected = rows_of(client, "table")
    assert len(expected) > 2_500
    ours = (b"_load:", b"_before:")
    found = {
        key: {name: row[name] for name in row if not name.startswith(ours)} for key, row in spread.rows("table").items()
    }
    assert found == {
        key: {name: row[name] for name in row if not name.startswith(ours)} for key, row in expected.items()
    }
