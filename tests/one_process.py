"""Stages one after another in one process: what they import is imported once. The doors start one process a stage."""

import runpy
import sys
import warnings
from pathlib import Path


def run_stages(repository: Path, stages: tuple[str, ...]) -> None:
    """Run stages in a clone as `python -m` does, one after another, without DVC."""
    from tests.clones import run  # not where this file is the program: a clone has tests of its own

    run(repository, "python", str(Path(__file__).resolve()), *stages, PYTHONPATH=str(repository))


def main(stages: list[str]) -> None:
    """Run each as a program; the first that fails ends all."""
    warnings.filterwarnings("ignore", "'.*' found in sys.modules", RuntimeWarning)
    for stage in stages:
        sys.argv = [stage]
        try:
            runpy.run_module(stage, run_name="__main__", alter_sys=True)
        except SystemExit as ended:
            if ended.code:
                raise


if __name__ == "__main__":
    main(sys.argv[1:])
