"""The epochs of a run -> its record.csv, and DVCLive's folder, which `dvc plots` and the editor plug-in follow."""

import csv
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

DIGITS = 6


@dataclass(frozen=True)
class Epoch:
    """One row of the training record; validation figures are nan where there are no validation requests."""

    model: str
    epoch: int  # from 1
    train_loss: float  # mean loss of clicks over the epoch, as train.loss says
    mutual_information: float  # -L_MI, mean over the epoch, nats; nan for a model without a router
    validation_logloss: float
    validation_auc: float
    validation_iauc: float


def best_epoch(record: Sequence[Epoch], listwise: bool = False) -> int:
    """The epoch of the lowest validation logloss, the first of equals; the last epoch where none is finite.

    listwise: of the highest validation iAUC instead, since such logits are no probabilities.
    """

    def cost(epoch: Epoch) -> float:
        return -epoch.validation_iauc if listwise else epoch.validation_logloss

    measured = [epoch for epoch in record if math.isfinite(cost(epoch))]
    return min(measured, key=cost).epoch if measured else record[-1].epoch


def write_record(path: Path, record: Sequence[Epoch]) -> None:
    """One line an epoch; nan becomes an empty field."""
    with path.open("w", newline="", encoding="utf-8") as handle:
        writer = csv.DictWriter(handle, [field.name for field in fields(Epoch)], lineterminator="\n")
        writer.writeheader()
        writer.writerows({name: _plain(value) for name, value in asdict(epoch).items()} for epoch in record)


def log_live(folder: Path, record: Sequence[Epoch]) -> None:
    """Write the curves to DVCLive's folder. It is mutable state beside the graph: no stage reads it."""
    from dvclive.live import Live  # imports DVC, which the figures of a run do not need

    with Live(dir=str(folder), save_dvc_exp=False, dvcyaml=None, report=None, monitor_system=False) as live:
        for number in sorted({epoch.epoch for epoch in record}):
            for epoch in (epoch for epoch in record if epoch.epoch == number):
                for name, value in asdict(epoch).items():
                    if isinstance(value, float) and math.isfinite(value):
                        live.log_metric(f"{epoch.model}/{name}", value)
            live.next_step()


def _plain(value: object) -> object:
    if isinstance(value, float):
        return round(value, DIGITS) if math.isfinite(value) else ""
    return value
