"""A model and batches -> losses, figures and a record: Lightning modules for the router's phase and for clicks."""

import math
from dataclasses import asdict
from multiprocessing import parent_process
from typing import Any

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor
from torch.nn import functional
from torch.optim.lr_scheduler import LinearLR
from torchmetrics import MeanMetric

from training.fitting.losses import click_loss, listwise_loss, share_of_mean
from training.fitting.measured import RankingFigures, ThemeUse
from training.fitting.optimizers import clip_by_norm, make_optimizer
from training.fitting.quiet import silence
from training.fitting.record import Measured, choice_of
from training.model.build import Model
from training.model.information import mutual_information_loss
from training.model.params import TrainParams
from training.model.processes import gathered
from training.model.ranker import distinct_items
from training.requests.batches import Batch

CHOICE = "choice"
"""The name of the figure by which the best weights are chosen; higher is better."""
SINCE = ("clicks", "information")
"""The means since the last validation, by name."""
LOG_EVERY = 20
"""Steps between two points of the loss in DVCLive."""


class Training(LightningModule):
    """What both phases share: training the router, and training on clicks."""

    def __init__(self, model: Model, train: TrainParams) -> None:
        super().__init__()
        self.model, self.params = model, train

    def setup(self, stage: str) -> None:
        """Silence Lightning in spawned processes too: quiet() applies to the first process alone."""
        if parent_process() is not None:
            silence()

    def configure_gradient_clipping(
        self, optimizer: Any, gradient_clip_val: float | None = None, gradient_clip_algorithm: str | None = None
    ) -> None:
        """Clip by norm; Lightning's own clipping does not support sparse gradients."""
        if gradient_clip_val:
            clip_by_norm(self.model.parameters(), gradient_clip_val)

    def optimizer(self) -> torch.optim.Optimizer:
        """The optimizer of train.optimizer. Not fused in half precision: its scaler must see gradients first."""
        return make_optimizer(self.model, self.params.learning_rate, fused=self.params.precision != "16-mixed")


class RouterTraining(Training):
    """Trains on L_MI alone: the router learns which items occur together in sessions before it sees clicks."""

    def training_step(self, batch: Batch) -> Tensor:
        return information_of(self.model, batch)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return self.optimizer()


def information_of(model: Model, batch: Batch) -> Tensor:
    """L_MI of the batch's histories, each event routed by its item alone."""
    history, _, items = distinct_items(batch.history, batch.candidates, len(model.catalogue.row_of_N), batch.codes)
    routing_ULT = functional.embedding(history.item_index_UL, model.tables(items).routing_NT)
    return mutual_information_loss(routing_ULT, history)


class ClickTraining(Training):
    """Trains on the loss of clicks and, for a model with a router, on weighted L_MI; records every validation."""

    def __init__(self, name: str, model: Model, train: TrainParams, num_steps: int) -> None:
        """num_steps: steps of the whole training, over which a linear schedule decays."""
        super().__init__(model, train)
        self.name, self.num_steps = name, num_steps
        self.record: list[Measured] = []
        self.clicks, self.information = (MeanMetric(nan_strategy="disable") for _ in range(2))  # since a validation
        for since in (self.clicks, self.information):
            since.persistent(True)  # stored in checkpoints, so that a resumed run records the same means
        self.ranking = RankingFigures()
        self.use = ThemeUse(model.params.num_themes) if model.has_router else None
        self._own: dict[str, Any] | None = None  # what a checkpoint holds of this process alone

    def training_step(self, batch: Batch) -> Tensor:
        logits_B, mutual_information = self.model.learn(batch.history, batch.candidates, batch.codes)
        clicks = self._click_loss(logits_B, batch)
        self.clicks.update(clicks.detach())
        self.information.update(-mutual_information.detach())
        if self.global_step % LOG_EVERY == 0:
            self.log("train_loss", clicks.detach(), on_step=True, on_epoch=False)
        return clicks + self.params.mutual_information * mutual_information

    def validation_step(self, batch: Batch) -> None:
        if not batch.counts:
            return
        logits_B = self.model(batch.history, batch.candidates, batch.codes)
        user_B = batch.candidates.user_of_B
        self.ranking.update(logits_B, batch.label_B, batch.request_U[user_B], batch.user_U[user_B])
        if self.use is not None:
            code_ULF = None if batch.codes is None else batch.codes.event_ULF
            routing_ULT = self.model.themes(batch.history.item_index_UL, code_ULF)  # type: ignore[operator]
            self.use.update(routing_ULT, batch.history.mask_UL)

    def on_validation_epoch_end(self) -> None:
        figures = self.ranking.compute()
        use = self.use.compute() if self.use is not None else {}
        self._measured(figures, use)
        for metric in (self.ranking, self.use):
            if metric is not None:
                metric.reset()

    def on_train_epoch_end(self) -> None:
        if not self.trainer.enable_validation:
            self._measured({}, {})

    def _measured(self, figures: dict[str, float], use: dict[str, float]) -> None:
        """Add a row to the record and a point to every curve."""
        measured = Measured(
            model=self.name,
            epoch=self.current_epoch + 1,
            step=self.global_step,
            train_loss=float(self.clicks.compute()),
            mutual_information=float(self.information.compute()) if self.use is not None else math.nan,
            routing_entropy=use.get("routing_entropy", math.nan),
            **{f"validation_{name}": figures.get(name, math.nan) for name in ("logloss", "auc", "gauc", "iauc")},
        )
        self.clicks.reset()
        self.information.reset()
        self.record.append(measured)
        curves = {name: value for name, value in asdict(measured).items() if isinstance(value, float)} | use
        self.log_dict({name: value for name, value in curves.items() if math.isfinite(value)})
        self.log(CHOICE, choice_of(measured, len(self.record), self.params.choose_by))
        if figures and all(math.isnan(value) for value in figures.values()) and not math.isfinite(measured.train_loss):
            self.trainer.should_stop = True  # diverged: further steps do not help

    def _click_loss(self, logits_B: Tensor, batch: Batch) -> Tensor:
        """The loss that train.loss names."""
        label_B, num_requests = batch.label_B, len(batch.history.mask_UL)
        loss = torch.zeros((), device=label_B.device)
        if self.params.loss != "listwise":
            loss = share_of_mean(click_loss(logits_B, label_B), len(label_B) * batch.counts)
        if self.params.loss != "pointwise":
            user_B = batch.candidates.user_of_B
            clicked_U = label_B.new_zeros(num_requests).index_add(0, user_B, label_B).clamp(max=1)
            within = listwise_loss(logits_B, label_B, user_B, num_requests)
            loss = loss + share_of_mean(within, clicked_U.sum() * batch.counts)
        return loss

    def configure_optimizers(self) -> OptimizerLRScheduler:
        optimizer = self.optimizer()
        if self.params.schedule == "constant":
            return optimizer
        falling = LinearLR(optimizer, 1.0, 0.0, total_iters=self.num_steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": falling, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["record"] = [asdict(measured) for measured in self.record]
        own: dict[str, Any] = {"cpu": torch.get_rng_state()}
        if self.device.type == "cuda":
            own["cuda"] = torch.cuda.get_rng_state(self.device)
        own |= {name: getattr(self, name).state_dict() for name in SINCE}
        checkpoint["of_each_process"] = gathered(own)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.record = [Measured(**measured) for measured in checkpoint["record"]]
        self._own = checkpoint["of_each_process"][self.global_rank]

    def on_train_start(self) -> None:
        """The last hook before the first step: restores what a checkpoint holds of this process.

        The random state, so that dropout continues as before, and the means since the last validation.
        """
        if self._own is not None:
            torch.set_rng_state(self._own["cpu"].cpu())
            if "cuda" in self._own and self.device.type == "cuda":
                torch.cuda.set_rng_state(self._own["cuda"].cpu(), self.device)
            for name in SINCE:
                getattr(self, name).load_state_dict(self._own[name])
            self._own = None
