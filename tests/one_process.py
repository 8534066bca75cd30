"""Stages of a clone one after another in the process of the tests, which has imported most of what they need. What a
stage is as a program (its lock, its errors, what it notes) is tests/contracts; the doors start one process a stage."""

import contextlib
import importlib
import inspect
from pathlib import Path

from contracts.figures import write_figures
from contracts.params import PARAMS, load_params
from contracts.publish import write_report


def run_stages(repository: Path, stages: tuple[str, ...]) -> None:
    """Run stages by the parameters of a clone, with their reports, without DVC. A stage that fails raises its error."""
    sections = load_params(repository / PARAMS)
    known = sections | {"data": Path("data") / sections["source"].id}
    reports = Path("reports") / sections["source"].id
    with contextlib.chdir(repository):
        for module in stages:
            run, stage = importlib.import_module(module).run, module.rpartition(".")[2]
            report = run(**{name: known[name] for name in inspect.signature(run).parameters})
            write_report(reports / f"{stage}.json", report)
            write_figures(reports / "figures" / f"{stage}.json", stage, report)
