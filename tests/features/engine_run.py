"""Stages one after another on an engine, each with an empty cache: what both engines are compared on.

As a program: `python -m tests.features.engine_run <folder>`, which holds what `ask` left there.
"""

import inspect
import logging
import pickle
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from features.stages import histories, ingest, statistics, validate
from features.terms.params import EngineParams
from tests.clones import ROOT
from tests.features.raw_logs import digest
from tests.features.spark_cluster import environment

STAGES = {"ingest": ingest, "validate": validate, "histories": histories, "statistics": statistics}
ASKED = "asked.pickle"
LIMIT_S = 900


def run_stages(data: Path, sections: Mapping[str, Any], stages: tuple[str, ...], range_rows: int) -> dict[str, Any]:
    """Their reports. range_rows: rows of a range of users, so that a small log has several."""
    histories.RANGE_ROWS = range_rows
    given = {**sections, "data": data}
    return {name: dict(STAGES[name].run(**_arguments(STAGES[name].run, given))) for name in stages}


def outs_of(data: Path) -> dict[str, str]:
    """A hash of every out."""
    return {path.name: digest(path) for path in sorted(data.iterdir()) if path.is_dir() and not path.is_symlink()}


def start_on_spark(
    data: Path, sections: Mapping[str, Any], stages: tuple[str, ...], range_rows: int, master: str
) -> tuple["subprocess.Popen[bytes]", Path]:
    """The same in a process of its own on Spark; and the file that it says everything to."""
    data.mkdir(parents=True, exist_ok=True)
    engine = EngineParams(name="spark", master=master, options={})
    (data.parent / ASKED).write_bytes(pickle.dumps((data, {**sections, "engine": engine}, stages, range_rows)))
    said = data.parent / "said.txt"
    with said.open("wb") as log:
        command = [sys.executable, "-m", "tests.features.engine_run", str(data.parent)]
        return subprocess.Popen(command, cwd=ROOT, env=environment(), stdout=log, stderr=log), said


def finish(process: "subprocess.Popen[bytes]", said: Path) -> str:
    """Wait for it; what it said."""
    try:
        code = process.wait(LIMIT_S)
    except BaseException:
        process.kill()
        process.wait()
        raise
    text = said.read_text()
    assert code == 0, text[-6000:]
    return text


def _arguments(run: Any, given: Mapping[str, Any]) -> dict[str, Any]:
    return {name: given[name] for name in inspect.signature(run).parameters if name in given}


def main() -> None:
    logging.basicConfig(level=logging.INFO, stream=sys.stderr)
    logging.getLogger("py4j").setLevel(logging.WARNING)
    asked = pickle.loads((Path(sys.argv[1]) / ASKED).read_bytes())
    (Path(sys.argv[1]) / "reports.pickle").write_bytes(pickle.dumps(run_stages(*asked)))


if __name__ == "__main__":
    main()
