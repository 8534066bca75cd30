"""A run's folder for DVCLive -> Lightning's logger into it: curves to be followed while training runs."""

from collections.abc import Mapping
from pathlib import Path

from lightning.pytorch.loggers import Logger

from contracts.files import write_text


def live_logger(folder: Path, name: str) -> Logger:
    """Curves of one model, <name>/..., beside those of the models before it. Remove the folder to begin a run anew."""
    from dvclive.lightning import DVCLiveLogger  # imports DVC, which the figures of a run do not need

    class Curves(DVCLiveLogger):
        LOGGER_JOIN_CHAR = "/"

        def log_metrics(self, metrics: Mapping[str, float], step: int | None = None, sync: bool | None = True) -> None:
            """Lightning counts steps from 0, the record the steps that were made.

            sync: where it is False, DVCLive finds out who calls by inspect.stack(), a second each time (3.49.1).
            """
            super().log_metrics(metrics, None if step is None else step + 1, sync)

    return Curves(
        prefix=name, dir=str(folder), resume=True, save_dvc_exp=False, dvcyaml=None, report=None, monitor_system=False
    )


def keep_until(folder: Path, name: str, step: int) -> None:
    """Drop the points of a model's curves after a step: a training that goes on from there makes them again."""
    for path in (folder / "plots" / "metrics" / name).rglob("*.tsv"):
        head, *lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        write_text(path, head + "".join(line for line in lines if int(line.partition("\t")[0]) <= step))
