"""Units of a load into Redis: run in any order, twice, or again after an attempt was killed, they end the same."""

import random
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from contracts.errors import InputError
from features.engine.engine import InProcess
from features.feast_store import online_rows, redis_rows
from features.online import fill, view_load
from features.online import load as loading
from features.online.load import load
from features.online.store import OnlineStore
from tests.features.loads import held_by
from tests.features.online.test_load import Source
from tests.features.redis_server import RedisServer
from tests.features.small_log import random_log

pytestmark = pytest.mark.xdist_group("feast")

ITEMS = [f"i{number:02}" for number in range(12)]
NUM_USERS = 60


class Killed(BaseException):
    """Ends an attempt, as SIGKILL does: nobody catches it on its way."""


class Unreliable:
    """Runs units in any order: first an attempt that ends in its midst, then one to its end, and some once more."""

    def __init__(self, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
        self._random, self._monkeypatch = random.Random(seed), monkeypatch
        self.num_killed = 0

    def map(self, function: Callable[[Any], Any], units: Sequence[Any], doing: str) -> Iterator[Any]:
        results = {}
        for number in self._random.sample(range(len(units)), len(units)):
            with self._monkeypatch.context() as patched:
                patched.setattr(redis_rows, "_pipelined", self._killing(redis_rows._pipelined))
                try:
                    function(units[number])
                except Killed:
                    self.num_killed += 1
            results[number] = function(units[number])
            late = self._random.choice([*results])
            assert function(units[late]) == results[late]
        return iter([results[number] for number in range(len(units))])

    def _killing(self, write: Callable[..., Any]) -> Callable[..., Any]:
        """The first batch ends after a part of its rows."""

        def end(feast: Any, commands: Sequence[Any]) -> None:
            write(feast, commands[: len(commands) // 2])
            raise Killed

        return end


def at(redis_server: RedisServer, number: int) -> str:
    return f"127.0.0.1:{redis_server.port},db={number}"


@pytest.mark.parametrize("seed", range(2))
def test_units_that_are_killed_repeated_and_out_of_order_end_where_one_process_does(
    tmp_path: Path, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """Three snapshots; the state is lost before the last, so that rows are in the store which nobody knows of."""
    draw = np.random.default_rng(seed)
    source = Source(tmp_path, random_log(seed, num_requests=20), f"twice{seed}")
    engines = {8: InProcess(), 9: (unreliable := Unreliable(seed, monkeypatch))}
    states = {number: tmp_path / str(number) / ".state" / f"twice{seed}" / "feast" for number in engines}
    monkeypatch.setattr(view_load, "ROWS_AT_ONCE", 7)
    for turn in range(3):
        users = [f"u{number:02}" for number in np.flatnonzero(draw.random(NUM_USERS) < 0.7)]
        source.write(draw, users, [*ITEMS, *(f"x{number:02}" for number in np.flatnonzero(draw.random(20) < 0.5))])
        if turn == 2:
            for state in states.values():
                shutil.rmtree(state.parent)
        held, told = {}, {}
        for number, engine in engines.items():
            monkeypatch.setenv("LEITMOTIF_ONLINE", at(redis_server, number))
            monkeypatch.setattr(loading, "running", lambda *_, engine=engine: nullcontext(engine))
            told[number] = []
            assert load(source.data, states[number], written=lambda *given, to=told[number]: to.append(given))
            held[number] = held_by([(redis_server.port, number)], f"twice{seed}")
        assert held[8] == held[9]
        assert told[8] == told[9]
        rows = [held[8][key] for key in held[8] if b"user_id" in key]
        assert sum(b"_ts:user_history" in row for row in rows) == len(users)
    assert unreliable.num_killed > 9
    assert any(b"_before:user_state" in row for row in rows)


def test_what_is_left_of_a_load_stops_once_another_has_begun(
    tmp_path: Path, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LEITMOTIF_ONLINE", at(redis_server, 7))
    draw = np.random.default_rng(0)
    source = Source(tmp_path, random_log(0, num_requests=20), "fenced")
    source.write(draw, [f"u{number:02}" for number in range(NUM_USERS)], ITEMS)
    left, run = [], fill.load_groups

    def note(given: view_load.ViewLoad, groups: view_load.Groups) -> view_load.Loaded:
        left.append((given, groups))
        return run(given, groups)

    with monkeypatch.context() as patched:  # a load that ends before it is whole
        patched.setattr(fill, "load_groups", note)
        patched.setattr(fill, "rows_of", lambda view: 1 / 0 if view == "item_profile" else f"{view}.rows.parquet")
        with pytest.raises(ZeroDivisionError):
            load(source.data, source.state)
    source.write(draw, [f"u{number:02}" for number in range(NUM_USERS)], ITEMS)
    assert load(source.data, source.state)
    held = held_by([(redis_server.port, 7)], "fenced")
    assert [given.view for given, _ in left] == ["user_history", "user_state"]
    for given, _ in left:
        feast = OnlineStore.open(source.state).feast
        rows = pq.read_table(given.rows)
        online_rows.write_for(feast, given.writer)
        with pytest.raises(InputError, match="does not have the mark of this load: another load has begun"):
            online_rows.overwrite(feast, feast.get_feature_view(given.view), rows, [])
        with pytest.raises(InputError, match="No more is written"):
            online_rows.remove(feast, feast.get_feature_view(given.view), rows[given.key].to_pylist())
    assert held_by([(redis_server.port, 7)], "fenced") == held


def test_a_load_that_another_one_overtook_is_not_taken_for_whole(
    tmp_path: Path, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As from two clones: the lock of a folder does not hold them apart."""
    monkeypatch.setenv("LEITMOTIF_ONLINE", at(redis_server, 6))
    source = Source(tmp_path, random_log(0, num_requests=20), "overtaken")
    source.write(np.random.default_rng(0), ["u1", "u2"], ITEMS)
    other = tmp_path / "other" / ".state" / "overtaken" / "feast"
    write, calls = fill._load_view, []

    def overtaken(*given: Any) -> None:
        write(*given)
        calls.append(given)
        if len(calls) == 3:
            source.write(np.random.default_rng(1), ["u1", "u2"], ITEMS)
            assert load(source.data, other)

    with monkeypatch.context() as patched:
        patched.setattr(fill, "_load_view", overtaken)
        with pytest.raises(InputError, match="another load has begun"):
            load(source.data, source.state)
    assert OnlineStore.open(other).history("u1") is not None
    assert not source.state.exists()
    assert load(source.data, source.state)
