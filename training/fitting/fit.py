"""A model and request batches -> fitted weights and a record of every epoch. Lightning wires step and optimizer."""

import copy
import logging
import math
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor
from torch.nn import functional
from torch.optim.lr_scheduler import LinearLR
from torch.utils.data import DataLoader

from training.fitting.losses import click_loss, listwise_loss
from training.fitting.record import Epoch, best_epoch
from training.metrics import auc, iauc, logloss
from training.model.build import Model
from training.model.information import mutual_information_loss
from training.model.mixture import MixtureOfSequence
from training.model.params import TrainParams
from training.model.ranker import distinct_items
from training.requests.batches import Batch, RequestDataset, in_order, shuffled

log = logging.getLogger("leitmotif")


class RouterTraining(LightningModule):
    """L_MI alone: the router sees which items stand together in sessions before it sees a click."""

    def __init__(self, model: MixtureOfSequence, learning_rate: float) -> None:
        super().__init__()
        self.model, self.learning_rate = model, learning_rate

    def training_step(self, batch: Batch) -> Tensor:
        history, _, items = distinct_items(batch.history, batch.candidates, len(self.model.catalogue.row_of_N))
        routing_ULT = functional.embedding(history.item_index_UL, self.model.tables(items).routing_NT)
        return mutual_information_loss(routing_ULT, history)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.model.parameters(), self.learning_rate)


class ClickTraining(LightningModule):
    """The loss of the clicks, and for the mixture of sequence L_MI at its weight. Keeps the best epoch's weights."""

    def __init__(self, name: str, model: Model, train: TrainParams, validation: RequestDataset) -> None:
        super().__init__()
        self.name, self.model, self.params, self.validation = name, model, train, validation
        self.record: list[Epoch] = []
        self.best_weights: dict[str, Tensor] = {}
        self._steps: list[Tensor] = []  # [click loss, information] of each step of this epoch
        self._logits: list[Tensor] = []

    def training_step(self, batch: Batch) -> Tensor:
        logits_B, information_loss = self.model.learn(batch.history, batch.candidates)
        clicks = self._click_loss(logits_B, batch)
        self._steps.append(torch.stack([clicks.detach(), -information_loss.detach()]))
        return clicks + self.params.mutual_information * information_loss

    def validation_step(self, batch: Batch) -> None:
        self._logits.append(self.model(batch.history, batch.candidates).cpu())

    def _click_loss(self, logits_B: Tensor, batch: Batch) -> Tensor:
        """As train.loss says."""
        if self.params.loss == "pointwise":
            return click_loss(logits_B, batch.label_B)
        within = listwise_loss(logits_B, batch.label_B, batch.candidates.user_of_B, len(batch.history.mask_UL))
        return within if self.params.loss == "listwise" else within + click_loss(logits_B, batch.label_B)

    def on_train_epoch_end(self) -> None:
        """After Lightning has validated this epoch."""
        requests = self.validation.requests
        probabilities = torch.sigmoid(torch.cat(self._logits)).double().numpy() if self._logits else np.zeros(0)
        labels = requests.label if len(probabilities) else np.zeros(0)
        clicks, information = torch.stack(self._steps).double().mean(0).tolist()
        if not np.isfinite(probabilities).all():  # diverged: figures of such scores would pass for an order
            probabilities = labels = np.zeros(0)
        epoch = Epoch(
            model=self.name,
            epoch=len(self.record) + 1,
            train_loss=clicks,
            mutual_information=information if self.model.has_router else math.nan,
            validation_logloss=logloss(probabilities, labels),
            validation_auc=auc(probabilities, labels),
            validation_iauc=iauc(probabilities, labels, requests.request_of_row[: len(labels)]),
        )
        self.record.append(epoch)
        self._steps, self._logits = [], []
        if self.best_epoch() == epoch.epoch:
            self.best_weights = copy.deepcopy(self.model.state_dict())
        log.info("%s epoch %d: %s", self.name, epoch.epoch, _say(asdict(epoch)))

    def best_epoch(self) -> int:
        """The epoch whose weights are kept."""
        return best_epoch(self.record, listwise=self.params.loss == "listwise")

    def configure_optimizers(self) -> OptimizerLRScheduler:
        optimizer = torch.optim.Adam(self.model.parameters(), self.params.learning_rate)
        if self.params.schedule == "constant":
            return optimizer
        falling = LinearLR(optimizer, 1.0, 0.0, total_iters=int(self.trainer.estimated_stepping_batches))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": falling, "interval": "step"}}


class Progress(Callback):
    """A line in the log every few seconds: where training stands, its loss and its speed."""

    EVERY_S = 5.0

    def __init__(self, name: str, what: str, num_steps: int) -> None:
        self.name, self.what, self.num_steps = name, what, num_steps
        self._requests, self._said_at = 0, time.monotonic()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: object, batch: Batch, batch_idx: int
    ) -> None:
        self._requests += len(batch.history.mask_UL)
        elapsed = time.monotonic() - self._said_at
        if elapsed < self.EVERY_S:
            return
        loss = float(outputs["loss"]) if isinstance(outputs, dict) else math.nan
        log.info(
            "%s %s: epoch %d, step %d of %d, loss %.4f, %s requests/s",
            self.name, self.what, trainer.current_epoch + 1, trainer.global_step, self.num_steps, loss,
            f"{self._requests / elapsed:,.0f}",
        )  # fmt: skip
        self._requests, self._said_at = 0, time.monotonic()


def pretrain_router(
    name: str, model: MixtureOfSequence, dataset: RequestDataset, train: TrainParams, seed: int
) -> None:
    """train.router_steps steps of L_MI alone, in place."""
    if not train.router_steps or model.params.router == "random":
        return
    loader = shuffled(dataset, train.batch_requests, seed)
    progress = Progress(name, "router", train.router_steps)
    with _quiet():
        _trainer(progress, max_steps=train.router_steps, max_epochs=-1).fit(
            RouterTraining(model, train.learning_rate), loader
        )


def fit(
    name: str, model: Model, dataset: RequestDataset, validation: RequestDataset, train: TrainParams, seed: int
) -> tuple[list[Epoch], int]:
    """Fit in place and leave the weights of the best epoch. Returns (record, that epoch)."""
    if isinstance(model, MixtureOfSequence):
        pretrain_router(name, model, dataset, train, seed)
    module = ClickTraining(name, model, train, validation)
    loader = shuffled(dataset, train.batch_requests, seed)
    validation_loader: list[DataLoader[Batch]] = []
    if len(validation):
        validation_loader = [in_order(validation, 4 * train.batch_requests)]
    with _quiet():
        trainer = _trainer(Progress(name, "clicks", train.epochs * len(loader)), max_epochs=train.epochs, max_steps=-1)
        trainer.fit(module, loader, validation_loader or None)
    model.load_state_dict(module.best_weights)
    model.cpu().eval()
    return module.record, module.best_epoch()


def _trainer(progress: Callback, max_epochs: int, max_steps: int) -> Trainer:
    return Trainer(
        accelerator="auto",
        devices=1,
        max_epochs=max_epochs,
        max_steps=max_steps,
        callbacks=[progress],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        deterministic="warn" if torch.cuda.is_available() else True,  # equal bytes are promised for CPUs
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """Lightning's advice on loaders and hardware is not this project's news."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric", "pytorch_lightning")]
    levels = [logger.level for logger in loggers]
    deterministic = torch.are_deterministic_algorithms_enabled()
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"lightning\..*")
            yield
    finally:
        torch.use_deterministic_algorithms(deterministic)
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _say(values: dict[str, object]) -> str:
    return ", ".join(f"{name} {value:.4f}" for name, value in values.items() if isinstance(value, float))
