"""Loads of several snapshots one after another into a Redis, here or on Spark, and what it holds after each.

As a program: `python -m tests.features.loads <folder>`, with the file that `start_on_spark` wrote there.
"""

import logging
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import redis

from features.live.open_tail import ENGINE_VARIABLE
from features.online import view_load
from features.online.load import load
from features.terms.params import EngineParams
from tests.clones import ROOT
from tests.features.spark_cluster import environment

ASKED, SAID, HELD = "asked.pickle", "said.txt", "held.pickle"
LIMIT_S = 900
Held = dict[bytes, dict[bytes, bytes]]


@dataclass(frozen=True)
class Loads:
    """Snapshots to load in turn. anew: those before which the state folder is lost."""

    data: Path
    snapshots: Sequence[Path]
    anew: Sequence[Path]
    ports: Sequence[tuple[int, int]]  # of each Redis, with its database
    rows_at_once: int

    def run(self, state: Path, engine: EngineParams) -> list[Held]:
        """What the store holds after each."""
        view_load.ROWS_AT_ONCE = self.rows_at_once
        held = []
        for snapshot in self.snapshots:
            if snapshot in self.anew:
                shutil.rmtree(state.parent)
            assert load(self.data, state, snapshot, engine=engine)
            held.append(held_by(self.ports, state.parent.name))
        return held


def held_by(ports: Sequence[tuple[int, int]], source: str) -> Held:
    """Every row of Feast's, field by field, and the mark."""
    held: Held = {}
    for port, number in ports:
        with redis.Redis(port=port, db=number) as client:
            for key in client.scan_iter(b"*leitmotif_%s*" % source.encode()):
                held[key] = dict(client.hgetall(key))  # type: ignore[arg-type]
    return held


def start_on_spark(
    root: Path, loads: Loads, state: Path, engine: EngineParams, online: str
) -> "subprocess.Popen[bytes]":
    """Load on Spark in a separate process, which logs to SAID."""
    root.mkdir(parents=True, exist_ok=True)
    (root / ASKED).write_bytes(pickle.dumps((loads, state, engine)))
    with (root / SAID).open("wb") as log:
        command = [sys.executable, "-m", "tests.features.loads", str(root)]
        told = environment({ENGINE_VARIABLE: online})
        return subprocess.Popen(command, cwd=ROOT, env=told, stdout=log, stderr=log)


def finish(process: "subprocess.Popen[bytes]", root: Path) -> tuple[str, Any]:
    """Wait for the process; returns its log, and what the store held after each load."""
    try:
        code = process.wait(LIMIT_S)
    finally:
        process.kill()
        process.wait()
    text = (root / SAID).read_text()
    assert code == 0, text[-6000:]
    return text, pickle.loads((root / HELD).read_bytes())


def main() -> None:
    logging.basicConfig(level=logging.INFO, stream=sys.stderr)
    logging.getLogger("py4j").setLevel(logging.WARNING)
    root = Path(sys.argv[1])
    loads, state, engine = pickle.loads((root / ASKED).read_bytes())
    assert os.environ[ENGINE_VARIABLE]
    (root / HELD).write_bytes(pickle.dumps(loads.run(state, engine)))


if __name__ == "__main__":
    from tests.features import loads as ours  # pickled by that name

    ours.main()
