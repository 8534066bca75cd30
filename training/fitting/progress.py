"""Training steps -> a log line every few seconds: step, loss and speed."""

import logging
import math
import time
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from training.requests.batches import Batch

log = logging.getLogger("leitmotif")


class Progress(Callback):
    """Logs the progress of one training; speeds are summed over processes."""

    EVERY_S = 5.0

    def __init__(self, name: str, what: str, num_steps: int) -> None:
        self.name, self.what, self.num_steps = name, what, num_steps
        self._requests, self._impressions, self._said_at = 0, 0, time.monotonic()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock at the first step; a resumed run logs the step it resumes at."""
        self._said_at = time.monotonic()
        if trainer.global_step:
            log.info("%s %s: resumes at step %d of %d", self.name, self.what, trainer.global_step, self.num_steps)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        """Count the batch, and log every EVERY_S seconds."""
        self._requests += len(batch.history.mask_UL) * trainer.world_size
        self._impressions += len(batch.label_B) * trainer.world_size
        elapsed = time.monotonic() - self._said_at
        if elapsed < self.EVERY_S or not trainer.is_global_zero:
            return
        loss = float(outputs["loss"]) if isinstance(outputs, dict) else math.nan
        log.info(
            "%s %s: epoch %d, step %d of %d, loss %.4f, %s requests/s, %s impressions/s",
            self.name, self.what, trainer.current_epoch + 1, trainer.global_step, self.num_steps, loss,
            f"{self._requests / elapsed:,.0f}", f"{self._impressions / elapsed:,.0f}",
        )  # fmt: skip
        self._requests, self._impressions, self._said_at = 0, 0, time.monotonic()
