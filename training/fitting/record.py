"""Figures of each validation -> record.csv, and which validation's weights are kept."""

import csv
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np

DIGITS = 6
UNMEASURED = -1e9
"""A value below every possible figure."""


@dataclass(frozen=True)
class Measured:
    """One row of the training record; validation figures are nan where there are no validation requests."""

    model: str
    epoch: int  # from 1
    step: int  # steps of the optimizer so far
    train_loss: float  # mean of train.loss since the previous row
    mutual_information: float  # -L_MI in nats, mean since the previous row; nan for a model without a router
    routing_entropy: float  # on validation histories, 0 (one theme per event) to 1; nan without a router
    validation_logloss: float
    validation_auc: float
    validation_gauc: float
    validation_iauc: float


def choice_of(measured: Measured, number: int, choose_by: str) -> float:
    """The value by which validations are compared; higher is better.

    Undefined figures compare below all defined ones and increase with the row's number (from 1). So of equal rows the
    first is kept, and if no figure is defined, the last row.
    """
    value = getattr(measured, f"validation_{choose_by}")
    if not math.isfinite(value):
        return UNMEASURED / number
    return float(np.float32(-value if choose_by == "logloss" else value))  # as Lightning compares it


def best_of(record: Sequence[Measured], choose_by: str) -> int:
    """The number, from 1, of the row whose weights are kept."""
    choices = [choice_of(measured, number, choose_by) for number, measured in enumerate(record, 1)]
    return 1 + max(range(len(choices)), key=choices.__getitem__)


def write_record(path: Path, record: Sequence[Measured]) -> None:
    """Write one line for each validation; nan becomes an empty field."""
    with path.open("w", newline="", encoding="utf-8") as handle:
        writer = csv.DictWriter(handle, [field.name for field in fields(Measured)], lineterminator="\n")
        writer.writeheader()
        writer.writerows({name: _plain(value) for name, value in asdict(each).items()} for each in record)


def _plain(value: object) -> object:
    if isinstance(value, float):
        return round(value, DIGITS) if math.isfinite(value) else ""
    return value
