"""A trained backbone -> a mixture that goes on from its weights, and is never below it on the validation part."""

import logging
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import cast

from contracts.errors import InputError
from training.fitting.fit import Places, fit
from training.fitting.ranks import ALONE, Ranks
from training.fitting.record import Measured, best_of
from training.model.alone import BackboneAlone
from training.model.build import Model
from training.model.mixture import MixtureOfSequence
from training.model.params import ModelParams, TrainParams
from training.requests.batches import RequestDataset

log = logging.getLogger("leitmotif")

RATE = 0.1
"""Of train.learning_rate: what was learnt would be lost at the whole of it."""
BASELINE = "din"

Trained = tuple[Model, Sequence[Measured], int]
"""A model with its best weights, its training record, and the number of the best row."""


def order(names: Sequence[str], train: TrainParams) -> list[str]:
    """The models in the order in which they are trained: the baseline first if another starts from it."""
    return sorted(names, key=lambda name: name != BASELINE) if train.start == "backbone" else list(names)


def check_start(model: ModelParams, train: TrainParams) -> None:
    """Raises InputError if the mixture cannot start from the baseline."""
    needs = {"backbone": BASELINE, "global_expert": "backbone"}
    given = {name: getattr(model, name) for name in needs}
    wrong = [f"model.{name} is {value}" for name, value in given.items() if value != needs[name]]
    if model.router == "tied":
        wrong.append("model.router is tied, whose pretraining would change the embeddings that were learnt")
    if train.start == "backbone" and wrong:
        changes = " ".join(f"model.{name}={value}" for name, value in (needs | {"router": "decoupled"}).items())
        raise InputError(
            f"train.start is backbone, so MoS starts from the trained DIN, but {'; '.join(wrong)}. "
            f'make set ARGS="{changes}", or train.start=random.'
        )


def fit_from(
    start: Trained,
    model: MixtureOfSequence,
    dataset: RequestDataset,
    validation: RequestDataset,
    train: TrainParams,
    seed: int,
    places: Places | None = None,
    ranks: Ranks = ALONE,
) -> tuple[list[Measured], int]:
    """As fit, but from the start's weights and at RATE; the record's first row, of step 0, is the start's best one.

    If no later row exceeds it, the mixture's logits are the start's.
    """
    backbone, record, best = start
    model.start_as(cast(BackboneAlone, backbone))
    slower = train.model_copy(update={"learning_rate": RATE * train.learning_rate})
    later, _ = fit("mos", model, dataset, validation, slower, seed, places, ranks)
    nothing = {"train_loss": math.nan, "mutual_information": math.nan, "routing_entropy": math.nan}
    rows = [replace(record[best - 1], model="mos", epoch=0, step=0, **nothing), *later]
    chosen = best_of(rows, train.choose_by)
    if chosen == 1:
        log.info("mos: no step improved on the trained %s, so it scores as that", BASELINE)
        model.start_as(cast(BackboneAlone, backbone))
    return rows, chosen
