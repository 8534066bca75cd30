"""A model and requests -> the logits of all candidates, in the order of their rows."""

import logging
import time

import numpy as np
import numpy.typing as npt
import torch

from training.model.build import Model
from training.requests.batches import RequestDataset, positions_in_order

log = logging.getLogger("leitmotif")

BATCH_REQUESTS = 64  # larger batches fall out of the CPU cache and take twice as long
PROGRESS_EVERY_S = 5.0


def score_requests(name: str, model: Model, dataset: RequestDataset) -> npt.NDArray[np.float32]:
    """[N] logits. The user side is computed once per request."""
    logits = [np.zeros(0, np.float32)]
    done, said_at = 0, time.monotonic()
    with torch.inference_mode():
        for positions in positions_in_order(len(dataset), BATCH_REQUESTS):
            batch = dataset.__getitems__(positions)
            logits.append(model(batch.history, batch.candidates, batch.codes).numpy())
            done += len(positions)
            if time.monotonic() - said_at >= PROGRESS_EVERY_S:
                log.info("%s scored %s of %s requests", name, f"{done:,}", f"{len(dataset):,}")
                said_at = time.monotonic()
    return np.concatenate(logits)
