"""The train section of params.yaml -> Lightning's Trainer: devices, number of processes, precision."""

import os
from collections.abc import Sequence

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.loggers import Logger
from lightning.pytorch.strategies import DDPStrategy, Strategy

from contracts.errors import InputError
from training.model.params import TrainParams


def make_trainer(
    train: TrainParams,
    callbacks: Sequence[Callback],
    logger: Logger | None,
    validate_every: int | None,
    max_epochs: int = -1,
    max_steps: int = -1,
) -> Trainer:
    """validate_every: in steps; None: never. Raises InputError if this machine does not support the params."""
    if train.optimizer == "sparse" and num_processes(train) > 1:
        raise InputError(
            f"train.optimizer is sparse, but {num_processes(train)} processes train together: their gradients are "
            "summed as dense ones. Set train.optimizer to auto or dense, or train.devices to 1."
        )
    try:
        return Trainer(
            accelerator=train.accelerator,
            devices=train.devices,
            num_nodes=train.num_nodes,
            precision=train.precision,
            strategy=_strategy(train),
            max_epochs=max_epochs,
            max_steps=max_steps,
            gradient_clip_val=train.gradient_clip,
            val_check_interval=validate_every,
            limit_val_batches=0 if validate_every is None else None,
            callbacks=list(callbacks),
            logger=logger or False,
            log_every_n_steps=1,  # learning.py decides how often to log
            enable_checkpointing=len(callbacks) > 1,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            use_distributed_sampler=False,  # RequestData gives each process its own requests
            deterministic="warn" if torch.cuda.is_available() else True,  # only CPU runs promise equal bytes
        )
    except (MisconfigurationException, ValueError) as error:
        raise InputError(
            f"This machine cannot train with train.accelerator = {train.accelerator}, devices = {train.devices}, "
            f"precision = {train.precision}, strategy = {train.strategy}: {error} "
            "auto, 1, 32-true and auto work everywhere."
        ) from error


def num_processes(train: TrainParams) -> int:
    """The number of processes that train together."""
    if train.devices != "auto":
        return train.devices * train.num_nodes
    return (max(torch.cuda.device_count(), 1) if train.accelerator != "cpu" else 1) * train.num_nodes


def _strategy(train: TrainParams) -> str | Strategy:
    """DDP with spawned processes: Lightning's default would start this stage's program again for each device.

    Processes that torchrun started (fitting/ranks.py) spawn none.
    """
    if train.strategy not in ("auto", "ddp") or num_processes(train) == 1:
        return train.strategy
    start_method = "popen" if int(os.environ.get("WORLD_SIZE", "1")) > 1 else "spawn"
    return DDPStrategy(start_method=start_method, find_unused_parameters=True)
