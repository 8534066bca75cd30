"""A fitted model and the validation part -> a model whose logits are calibrated there by Platt scaling (Platt 1999)."""

import logging

import numpy as np
import torch
from torch import nn

from training.metrics import fit_logistic
from training.model.build import Model
from training.requests.batches import RequestDataset, positions_in_order

log = logging.getLogger("leitmotif")

BATCH_REQUESTS = 64


def calibrate(model: Model, validation: RequestDataset) -> tuple[float, float] | None:
    """Fold the slope and intercept of a logistic regression of the clicks on the logits into the head's last layer.

    The order of candidates does not change. Returns (slope, intercept); None, with the model unchanged, where there is
    nothing to fit on, or a negative slope would reverse the order.
    """
    logits, labels = [np.zeros(0, np.float32)], [np.zeros(0, np.float32)]
    model.cpu().eval()
    with torch.inference_mode():
        for positions in positions_in_order(len(validation), BATCH_REQUESTS):
            batch = validation.__getitems__(positions)
            logits.append(model(batch.history, batch.candidates, batch.codes).numpy())
            labels.append(batch.label_B.numpy())
    all_logits, clicked = np.concatenate(logits), np.concatenate(labels)
    if not len(all_logits) or clicked.min() == clicked.max():
        return None
    intercept, slope = (float(value) for value in fit_logistic(all_logits, clicked))
    if not slope > 0:
        log.warning("not calibrated: on the validation part a higher score means fewer clicks")
        return None
    last = model.head.layers[-1]
    assert isinstance(last, nn.Linear)
    with torch.no_grad():
        last.weight *= slope
        last.bias.mul_(slope).add_(intercept)
    log.info("calibrated on the validation part: logits times %.3f, plus %.3f", slope, intercept)
    return slope, intercept
