"""Keeps Lightning's advice on loaders and hardware out of the log."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch

LOGGERS = ("lightning.pytorch", "lightning.fabric", "pytorch_lightning")


@contextmanager
def quiet() -> Iterator[None]:
    """Silence Lightning while a trainer runs, and restore afterwards what it sets for the whole process."""
    loggers = [logging.getLogger(name) for name in LOGGERS]
    levels = [logger.level for logger in loggers]
    deterministic = torch.are_deterministic_algorithms_enabled()
    try:
        with warnings.catch_warnings():
            silence()
            yield
    finally:
        torch.use_deterministic_algorithms(deterministic)
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def silence() -> None:
    """Silence Lightning for good, in a process that only trains."""
    for name in LOGGERS:
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module=r"(lightning|torchmetrics)\..*")
