"""Snapshots, loads into a Redis and point-in-time joins, here or on Spark: what was written, held and joined.

As a program: `python -m tests.features.loads <folder>`, with the file that `start_on_spark` wrote there.
"""

import logging
import os
import pickle
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import redis

from contracts.files import hash_file
from features.engine.engine import running
from features.feast_store import as_of_units
from features.live.open_tail import ENGINE_VARIABLE
from features.live.places import state_of
from features.online import counter_pieces, snapshot_parts, view_load
from features.online.load import load, offline_store
from features.online.snapshot import write_snapshot
from features.tables.histories import UserHistories
from features.terms.params import EngineParams
from tests.clones import ROOT
from tests.features.spark_cluster import environment

ASKED, SAID, DONE = "asked.pickle", "said.txt", "done.pickle"
LIMIT_S = 900
Held = dict[bytes, dict[bytes, bytes]]


@dataclass(frozen=True)
class Loads:
    """Snapshots to load in turn."""

    data: Path
    snapshots: Sequence[Path]
    ports: Sequence[tuple[int, int]]  # of each Redis, with its database
    rows_at_once: int
    state: Path

    def run(self, engine: EngineParams) -> list[Held]:
        """What the store holds after each."""
        view_load.ROWS_AT_ONCE = self.rows_at_once
        held = []
        for snapshot in self.snapshots:
            assert load(self.data, self.state, snapshot, engine=engine)
            held.append(held_by(self.ports, self.state.parent.name))
        return held


@dataclass(frozen=True)
class Joins:
    """A frame to join with features of a loaded state. folder: where Spark writes its parts."""

    data: Path
    frame: pd.DataFrame
    features: list[str]
    folder: Path
    rows_at_once: int

    def run(self, engine: EngineParams) -> pa.Table:
        """The rows of the frame with the features."""
        as_of_units.ROWS_AT_ONCE = self.rows_at_once
        with offline_store(state_of(self.data), self.folder, engine) as store:
            given: Any = {"entity_df": self.frame, "features": self.features, "full_feature_names": True}
            return store.get_historical_features(**given).to_arrow()


@dataclass(frozen=True)
class Snapshots:
    """A log of which the snapshot is written, several times over."""

    data: Path
    folder: Path
    number: int

    def run(self, engine: EngineParams) -> list[dict[str, str]]:
        """A hash of each file, of each time."""
        snapshot_parts.ROWS_OF_UNIT, counter_pieces.ROWS_OF_PIECE = 1, 30_000
        histories, found = UserHistories.open(self.data / "user_histories"), []
        for number in range(self.number):
            made = self.folder / f"made{number}"
            made.mkdir(parents=True)
            with running(engine, made) as runner:
                write_snapshot(self.data, histories, 50, {}, made, runner)
            found.append({path.name: hash_file(path) for path in sorted(made.iterdir())})
        return found


def held_by(ports: Sequence[tuple[int, int]], source: str) -> Held:
    """Every row of Feast's, field by field, and the mark."""
    held: Held = {}
    for port, number in ports:
        with redis.Redis(port=port, db=number) as client:
            for key in client.scan_iter(b"*leitmotif_%s*" % source.encode()):
                held[key] = dict(client.hgetall(key))  # type: ignore[arg-type]
    return held


def start_on_spark(
    root: Path, works: Sequence[Loads | Joins | Snapshots], engine: EngineParams, online: str
) -> "subprocess.Popen[bytes]":
    """Run them on Spark in a separate process, which logs to SAID."""
    root.mkdir(parents=True, exist_ok=True)
    (root / ASKED).write_bytes(pickle.dumps((works, engine)))
    with (root / SAID).open("wb") as log:
        command = [sys.executable, "-m", "tests.features.loads", str(root)]
        told = environment({ENGINE_VARIABLE: online})
        return subprocess.Popen(command, cwd=ROOT, env=told, stdout=log, stderr=log)


def finish(process: "subprocess.Popen[bytes]", root: Path) -> tuple[str, Any]:
    """Wait for the process; returns its log, and the results of each work."""
    try:
        code = process.wait(LIMIT_S)
    finally:
        process.kill()
        process.wait()
    text = (root / SAID).read_text()
    assert code == 0, text[-6000:]
    return text, pickle.loads((root / DONE).read_bytes())


def main() -> None:
    logging.basicConfig(level=logging.INFO, stream=sys.stderr)
    logging.getLogger("py4j").setLevel(logging.WARNING)
    root = Path(sys.argv[1])
    works, engine = pickle.loads((root / ASKED).read_bytes())
    assert os.environ[ENGINE_VARIABLE]
    (root / DONE).write_bytes(pickle.dumps([work.run(engine) for work in works]))


if __name__ == "__main__":
    from tests.features import loads as ours  # pickled by that name

    ours.main()
