"""Runs stages one after another on an engine, each with an empty cache, to compare the engines.

As a program: `python -m tests.features.engine_run <folder>`, with the file that `start_on_spark` wrote there.
"""

import inspect
import logging
import pickle
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from features.stages import audit, histories, ingest, materialize, statistics, validate
from features.terms.params import EngineParams
from tests.clones import ROOT
from tests.features.raw_logs import digest
from tests.features.spark_cluster import environment

STAGES = {"ingest": ingest, "validate": validate, "histories": histories, "statistics": statistics, "audit": audit}
STAGES["materialize"] = materialize
ASKED, SAID = "asked.pickle", "said.txt"
LIMIT_S = 1800


@dataclass(frozen=True)
class Work:
    """Stages to run over one log.

    range_rows, chunk_rows: rows of a range of users, and of partitions that are counted together, small enough that a
    small log has several of them.
    """

    name: str  # of the log; its folder is <root>/<name>/data/<name>
    sections: Mapping[str, Any]
    stages: tuple[str, ...] = ("ingest", "validate", "histories", "statistics", "audit", "materialize")
    range_rows: int = histories.RANGE_ROWS
    chunk_rows: int = statistics.ROWS_AT_ONCE

    def data(self, root: Path) -> Path:
        return root / self.name / "data" / self.name

    def run(self, root: Path, engine: EngineParams | None = None) -> dict[str, Any]:
        """Run the stages; returns their reports."""
        histories.RANGE_ROWS, statistics.ROWS_AT_ONCE = self.range_rows, self.chunk_rows
        given = {**self.sections, "data": self.data(root)} | ({"engine": engine} if engine else {})
        reports = {}
        for name in self.stages:
            run = STAGES[name].run
            reports[name] = dict(run(**{key: given[key] for key in inspect.signature(run).parameters if key in given}))
        return reports


def outs_of(data: Path) -> dict[str, str]:
    """A hash of every out."""
    return {path.name: digest(path) for path in sorted(data.iterdir()) if path.is_dir() and not path.is_symlink()}


def start_on_spark(root: Path, works: Sequence[Work], engine: EngineParams) -> "subprocess.Popen[bytes]":
    """Run the same on Spark in a separate process, which logs to SAID."""
    root.mkdir(parents=True, exist_ok=True)
    (root / ASKED).write_bytes(pickle.dumps((works, engine)))
    with (root / SAID).open("wb") as log:
        command = [sys.executable, "-m", "tests.features.engine_run", str(root)]
        return subprocess.Popen(command, cwd=ROOT, env=environment(), stdout=log, stderr=log)


def finish(process: "subprocess.Popen[bytes]", root: Path) -> tuple[str, dict[str, Any]]:
    """Wait for the process; returns its log, and the reports by name of the log."""
    try:
        code = process.wait(LIMIT_S)
    except BaseException:
        process.kill()
        process.wait()
        raise
    text = (root / SAID).read_text()
    assert code == 0, text[-6000:]
    return text, pickle.loads((root / "reports.pickle").read_bytes())


def main() -> None:
    logging.basicConfig(level=logging.INFO, stream=sys.stderr)
    logging.getLogger("py4j").setLevel(logging.WARNING)
    root = Path(sys.argv[1])
    works, engine = pickle.loads((root / ASKED).read_bytes())
    (root / "reports.pickle").write_bytes(pickle.dumps({work.name: work.run(root, engine) for work in works}))


if __name__ == "__main__":
    from tests.features import engine_run  # pickled by that name

    engine_run.main()
