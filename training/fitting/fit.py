"""A model and requests -> fitted weights and a record of every validation, with Lightning; interrupted fits resume."""

import logging
import math
import tempfile
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import EarlyStopping
from lightning.pytorch.loggers import Logger
from torch import Tensor

from contracts.errors import InputError
from training.fitting.checkpoint import (
    FittedFile,
    ResumePoint,
    best_weights,
    load_best,
    read_fitted,
    resume_point,
    step_of,
)
from training.fitting.data import RequestData
from training.fitting.learning import CHOICE, ClickTraining, RouterTraining, Training, information_of
from training.fitting.live import keep_until, live_logger
from training.fitting.optimizers import choose_sparse
from training.fitting.progress import Progress
from training.fitting.quiet import quiet
from training.fitting.ranks import ALONE, Ranks
from training.fitting.record import Measured, best_of
from training.fitting.trainer import make_trainer, num_processes
from training.model.build import Model
from training.model.params import TrainParams
from training.requests.batches import RequestDataset

log = logging.getLogger("leitmotif")

JUDGED_ON = 512
"""Number of requests on which the router's starts are compared."""
FALLS_FROM = 80_000
"""With train.schedule: auto, the learning rate of MoS falls from so many training requests on (docs/benchmarks.md)."""
RECEIVED = "received.ckpt"
"""The first process's checkpoint, in the folder of another."""


@dataclass(frozen=True)
class Places:
    """Folders of a training's state while it runs; mutable, and read by no stage."""

    checkpoints: Path  # one folder per model
    live: Path  # DVCLive's


def fit(
    name: str,
    model: Model,
    dataset: RequestDataset,
    validation: RequestDataset,
    train: TrainParams,
    seed: int,
    places: Places | None = None,
    ranks: Ranks = ALONE,
) -> tuple[list[Measured], int]:
    """Fit in place and load the best weights by the validation part. Returns (record, the number of the best row).

    places: None for a run that writes no checkpoints and cannot resume. ranks: of a run that torchrun started; its
    first process has the best weights, the others keep the last ones. Raises InputError where the GPU is too small.
    """
    with nullcontext(None) if places else tempfile.TemporaryDirectory() as temporary:
        folder = (places.checkpoints if places else Path(str(temporary))) / name
        record = ranks.from_first(read_fitted(folder) if ranks.is_first else None)
        if record is None:
            logger = live_logger(places.live, name) if places and ranks.is_first else None
            if places and ranks.is_first:
                keep_until(places.live, name, step_of(resume_point(name, folder)))
            data = RequestData(dataset, validation, train.batch_requests, seed)
            record = _fit(name, model, data, train, folder, logger, ranks)
        else:
            log.info("%s was fitted by the previous run: its weights are read from %s", name, folder)
        if ranks.is_first:
            load_best(model, folder)
    model.cpu().eval()
    return record, best_of(record, train.choose_by)


def _fit(
    name: str,
    model: Model,
    data: RequestData,
    train: TrainParams,
    folder: Path,
    logger: Logger | None,
    ranks: Ranks,
) -> list[Measured]:
    world = num_processes(train)
    choose_sparse(model, train.optimizer, world)
    checkpoint = ranks.file_from_first(resume_point(name, folder) if ranks.is_first else None, folder / RECEIVED)
    if checkpoint is None:
        pretrain_router(name, model, data, train)
    steps = data.steps_an_epoch(world)
    num_steps = train.epochs * steps
    module = ClickTraining(name, model, with_schedule(train, model, steps * world * train.batch_requests), num_steps)
    callbacks = [Progress(name, "clicks", num_steps), ResumePoint(folder, train.checkpoint_s), FittedFile(folder)]
    if len(data.validation):
        callbacks.append(best_weights(folder))
        if train.patience is not None:
            callbacks.append(EarlyStopping(CHOICE, mode="max", patience=train.patience))
    _run(module, data, train, callbacks, logger, checkpoint, max_epochs=train.epochs)
    choose_sparse(model, "dense")
    record = ranks.from_first(read_fitted(folder) if ranks.is_first else None)
    assert record is not None, f"{folder} was written at the end of the training"
    return record


def with_schedule(train: TrainParams, model: Model, num_requests: int) -> TrainParams:
    """The params with auto decided: the rate falls for a model with themes, from FALLS_FROM requests on.

    num_requests: of all processes, each rounded up to whole batches. A backbone alone learns best at a constant rate.
    """
    if train.schedule != "auto":
        return train
    falls = model.has_router and num_requests >= FALLS_FROM
    return train.model_copy(update={"schedule": "linear" if falls else "constant"})


def pretrain_router(name: str, model: Model, data: RequestData, train: TrainParams) -> None:
    """train.router_steps steps on L_MI alone, from train.router_starts random routers; the best one is kept.

    Several starts, because L_MI has local optima in which two themes coincide, and no later step separates them. This
    phase is short and is not checkpointed. A tied router, which shares the click model's embeddings, has one start.
    """
    router = getattr(model, "router", None)
    if not train.router_steps or router is None or not any(each.requires_grad for each in router.parameters()):
        return
    starts = 1 if model.params.router == "tied" else train.router_starts
    judged_on = data.train.__getitems__(np.linspace(0, len(data.train) - 1, min(JUDGED_ON, len(data.train)), dtype=int))
    best: tuple[float, dict[str, Tensor]] | None = None
    for number in range(1, starts + 1):
        if number > 1:
            router.reset_parameters()
        progress = Progress(name, f"router, start {number} of {starts}", train.router_steps)
        _run(RouterTraining(model, train), data, train, [progress], None, None, max_steps=train.router_steps)
        with torch.no_grad():
            information = -float(information_of(model.cpu(), judged_on))
        information = information if math.isfinite(information) else -math.inf  # a diverged start is never the best
        log.info("%s router, start %d of %d: mutual information %.5f", name, number, starts, information)
        if best is None or information > best[0]:
            best = information, {key: value.clone() for key, value in router.state_dict().items()}
    if best is not None:
        router.load_state_dict(best[1])


def _run(
    module: Training,
    data: RequestData,
    train: TrainParams,
    callbacks: list[Callback],
    logger: Logger | None,
    checkpoint: Path | None,
    **limits: int,
) -> None:
    steps = data.steps_an_epoch(num_processes(train))
    validates = "max_epochs" in limits and len(data.validation) > 0
    every = max(steps // train.validations_per_epoch, 1) if validates else None
    with quiet():
        trainer = make_trainer(train, callbacks, logger, every, **limits)
        try:
            trainer.fit(module, datamodule=data, ckpt_path=checkpoint, weights_only=True)
        except torch.OutOfMemoryError as error:
            raise InputError(
                f"The GPU's memory is too small for a step of train.batch_requests = {train.batch_requests}. Lower it: "
                f'make set ARGS="train.batch_requests={max(train.batch_requests // 2, 1)}". '
                f"({str(error).partition('. ')[0]})"
            ) from error
