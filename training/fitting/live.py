"""A run's DVCLive folder -> a Lightning logger that writes curves into it while training runs."""

from collections.abc import Mapping
from pathlib import Path

from lightning.pytorch.loggers import Logger

from contracts.files import write_text


def live_logger(folder: Path, name: str) -> Logger:
    """A logger of one model's curves, in <name>/, beside those of other models."""
    from dvclive.lightning import DVCLiveLogger  # imports DVC: slow, and not needed without curves

    class Curves(DVCLiveLogger):
        LOGGER_JOIN_CHAR = "/"

        def log_metrics(self, metrics: Mapping[str, float], step: int | None = None, sync: bool | None = True) -> None:
            """Log at the number of steps made, as the record does; Lightning counts from 0.

            sync: if it is False, DVCLive looks up its caller by inspect.stack(), which takes a second (3.49.1).
            """
            super().log_metrics(metrics, None if step is None else step + 1, sync)

    return Curves(
        prefix=name, dir=str(folder), resume=True, save_dvc_exp=False, dvcyaml=None, report=None, monitor_system=False
    )


def keep_until(folder: Path, name: str, step: int) -> None:
    """Drop the points of a model's curves after a step, which a training that resumes there writes again.

    DVCLive writes in place, so a killed run may leave a truncated point: it is dropped too, as is DVCLive's summary,
    which only its next start would read.
    """
    (folder / "metrics.json").unlink(missing_ok=True)
    for path in (folder / "plots" / "metrics" / name).rglob("*.tsv"):
        head, *lines = path.read_text(encoding="utf-8").splitlines(keepends=True) or [""]
        if head.endswith("\n"):
            kept = (line for line in lines if line.endswith("\n") and int(line.partition("\t")[0]) <= step)
            write_text(path, head + "".join(kept))
        else:
            path.unlink()
