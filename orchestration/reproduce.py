"""`make run`: change params.yaml, run `dvc repro`, and print a short table of the results."""

import argparse
import json
import os
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from contracts.errors import InputError, Interrupted
from orchestration.attempt import Attempt, repro
from orchestration.configure import PATH, configure, flatten, parse_assignments
from orchestration.fetch import fetch, is_url
from orchestration.graph import Graph, Stage, read_graph
from orchestration.timing import wall_s

WAIT_S = 60.0
"""How long a person's run waits for another one to end."""
MEANINGS: Mapping[int, str] = {
    1: "a defect, or DVC's own failure",
    2: "bad input, or something else is running",
    3: "a check refuses the data or the model",
    Interrupted.exit_code: "interrupted",
}
_QUIET = ("To track the changes with git", "To enable auto staging", "\tgit add", "\tdvc config", "Use `dvc push`")
_QUIET += (
    "Updating lock file",
    "Generating lock file",
    "ERROR: ",
    "> exec ",
    "Stage '",
    "WARNING: 'data/",
    "Data and pipelines",
)

FIGURES: Mapping[str, tuple[str, ...]] = {
    "ingest": ("rows_read", "rows_written", "dropped"),
    "validate": ("rows_valid", "rows_quarantined", "rows_duplicated"),
    "histories": ("num_users", "num_items", "num_events", "num_requests"),
    "audit": ("num_sessions", "hop_rate"),
    "materialize": ("parity.checked", "parity.mismatches"),
    "train": ("num_parameters", "epochs", "best_epoch"),
    "evaluate": ("models.mos.auc", "models.din.auc", "models.popularity.auc", "verdict.passed"),
    "package": ("bundle_hash", "num_golden_requests"),
}
"""What the last table shows of a stage's report; of any other stage, its first four figures."""


def main() -> None:
    """Configure, reproduce, report. Exits with the failed stage's own code: 1 defect, 2 bad input, 3 a check blocks."""
    arguments = _parse()
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:  # nohup make run &
            signal.signal(number, _stop)
    began = time.perf_counter()
    try:
        if is_url(url := arguments.changes.get(PATH)):
            arguments.changes[PATH], came = fetch(url)
            print(came, flush=True)
        _look(arguments.changes.get(PATH))
        for change in configure(arguments.changes, say=_warn) if arguments.changes else []:
            print(f"params.yaml  {change}", flush=True)
    except InputError as error:
        _warn(f"params.yaml stays as it was. {error}")
        _exit(error.exit_code)
    root = Path.cwd()
    try:
        attempt = repro(root, arguments.stages, say=_say, wait_s=WAIT_S)
    except KeyboardInterrupt:
        _warn("\nInterrupted. No process is left, the last good outputs stand; run it again to go on.")
        _exit(Interrupted.exit_code)
    except BrokenPipeError:  # `make run | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        _warn("\nWhoever read what this run says has ended, and so did it. The last good outputs stand; run it again.")
        _exit(Interrupted.exit_code)
    if attempt.reason:
        reason = attempt.reason
        _warn(f"\n{reason.stage or 'make run'} failed: {reason.message}")
        if reason.stage and (root / "attempts" / reason.stage).is_dir():
            stands = "The last good output stands; what" if attempt.restored else "What"
            _warn(f"{stands} this attempt left is in attempts/{reason.stage}/.")
        _exit(reason.exit_code)
    print(_summary(read_graph(root), attempt, time.perf_counter() - began))


def _look(path: object) -> None:
    """Refuse a log that is not there before params.yaml names it: what ran so far would otherwise no longer run."""
    if isinstance(path, str) and not Path(path).expanduser().exists():
        raise InputError(f"{PATH}: {path} does not exist. Say where the log lies: make run SOURCE=... DATA=<path>.")


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make run", description=__doc__)
    parser.add_argument("--source", help="simulator, movielens, ebnerd or table (presets/)")
    parser.add_argument("--data", help="file or folder of the raw log, or s3://bucket/key")
    parser.add_argument("what", nargs="*", help="section.name=value changes, and stages (none: all of them)")
    arguments = parser.parse_args()
    try:
        arguments.changes = parse_assignments([word for word in arguments.what if "=" in word])
    except InputError as error:
        parser.error(str(error))
    if arguments.source:
        arguments.changes["source.name"] = arguments.source
    if arguments.data:
        arguments.changes[PATH] = arguments.data
    arguments.stages = [word for word in arguments.what if "=" not in word]
    return arguments


def _warn(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _exit(code: int) -> NoReturn:
    """End with the code; under make, which ends with 2 whatever that is, say it too."""
    if "MAKELEVEL" in os.environ:
        _warn(f"Exit code {code}: {MEANINGS.get(code, 'unexpected')}. (`make` itself ends with 2 after any failure.)")
    sys.exit(code)


def _say(line: str) -> None:
    """DVC's hints on git and its summaries are left out; every stage's own words pass."""
    if line.strip() and not line.startswith(_QUIET):
        print(line, flush=True)


def _stop(*_: object) -> NoReturn:
    raise KeyboardInterrupt


def _summary(graph: Graph, attempt: Attempt, elapsed_s: float) -> str:
    asked = [stage for stage in graph.stages if stage.name in attempt.fates]  # the others' reports are other runs'
    rows = [("stage", "this time", "made in", "what it made")]
    for stage in asked:
        fate = attempt.fates[stage.name]
        seconds = None if fate == "from cache" else wall_s(graph.root, stage.report)  # in another run
        made_in = "restored" if seconds is None else f"{seconds:.1f} s"
        rows.append((stage.name, fate, made_in, _figures(stage, _read(graph.root, stage.report))))
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    lines = ["  ".join([*map(str.ljust, row[:3], widths), row[3]]) for row in rows]
    ran = sum(fate == "ran" for fate in attempt.fates.values())
    lines += ["", f"{ran} of {len(graph.stages)} stages ran, in {elapsed_s:.0f} s."]
    if others := [stage.name for stage in graph.stages if stage not in asked]:
        lines.append(f"Not asked: {', '.join(others)}.")
    return "\n".join(["", *lines, *_standing(graph, asked), *_where(graph)])


def _standing(graph: Graph, asked: Sequence[Stage]) -> list[str]:
    """How the served model stands beside each baseline, in evaluate's own sentences."""
    sentences = [_read(graph.root, stage.report).get("standing") for stage in asked if stage.name == "evaluate"]
    told = [sentence for each in sentences for sentence in each or []]
    return ["", "How the model stands", *(f"  {sentence}" for sentence in told)] if told else []


def _where(graph: Graph) -> list[str]:
    """The next places to look at; those that are files, only where they are."""
    outs = {out.key: out.path for out in graph.outs}
    source = Path(graph.outs[0].path).parent.name
    docs = f".state/{source}/data_docs/index.html"
    places = [
        *((key.removesuffix("_page").replace("_", " "), path) for key, path in outs.items() if key.endswith("_page")),
        ("reports", f"reports/{source}/"),
        ("Data Docs", docs),
        ("the model", outs.get("bundle", "")),
    ]
    there = [f"  {name:13} {path}" for name, path in places if path and (graph.root / path).exists()]
    if not (graph.root / docs).exists():  # a stage restored from the cache brings its tables back, not its pages
        there.append(f"  {'Data Docs':13} make docs")
    return ["", "Where to look", *there, f"  {'graph':13} make ui", f"  {'ranked answer':13} make serve, then make ask"]


def _figures(stage: Stage, report: Mapping[str, Any]) -> str:
    flat = flatten(report)
    wanted = FIGURES.get(stage.name) or [key for key, value in flat.items() if isinstance(value, int | float)][:4]
    shown = []
    for name in wanted:
        if isinstance(report.get(name), Mapping):
            parts = flatten(report[name])
            shown.append(f"{name} {sum(parts.values()) if parts else 0:,}")
        elif flat.get(name) is not None:
            shown.append(f"{name.removeprefix('models.')} {_number(flat[name])}")
    return ", ".join(shown)


def _number(value: object) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)[:12]
    return f"{value:,}" if isinstance(value, int) else f"{value:.4f}"


def _read(root: Path, path: str | None) -> Mapping[str, Any]:
    file = root / path if path else None
    return json.loads(file.read_text(encoding="utf-8")) if file and file.is_file() else {}


if __name__ == "__main__":
    main()
