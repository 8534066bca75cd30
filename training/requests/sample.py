"""The requests of a part -> the sample that a run trains or validates on."""

from dataclasses import dataclass
from typing import Generic

import numpy as np

from contracts.errors import InputError
from features.terms.convention import is_click
from training.model.params import TrainParams
from training.model.processes import gathered
from training.requests.reader import AnyRequests, Requests

RECENT = 2  # sampled from the latest RECENT x max_requests
VALIDATION_SHARE = 0.25  # of max_requests


@dataclass(frozen=True)
class Sample(Generic[AnyRequests]):
    """The requests that a run trains on, and notes on departures from the params."""

    requests: AnyRequests
    min_history: int  # the value used; may be below train.min_history
    notes: list[str]


def sample_train(requests: AnyRequests, train: TrainParams, seed: int) -> Sample[AnyRequests]:
    """train.max_requests requests sampled from the latest 2 x as many with enough history; in order of time.

    If the log is too short for train.min_history, a smaller minimum is used and a note says so. Raises InputError if
    the train part has no requests.
    """
    if not len(requests):
        raise InputError(
            "No request whose labels are known (labels.delay_s) lies between split.train_from and split.validation: "
            "there is nothing to train on. Set split.validation to a later time or a larger quantile."
        )
    notes = []
    min_history = train.min_history
    while min_history and (requests.num_events >= min_history).sum() < train.batch_requests:
        min_history //= 2
    if min_history < train.min_history:
        notes.append(
            f"fewer than {train.batch_requests} requests have train.min_history = {train.min_history} events "
            f"of history; trained on those with {min_history}"
        )
    eligible = np.flatnonzero(requests.num_events >= min_history)[-RECENT * train.max_requests :]
    if len(eligible) < train.max_requests:
        notes.append(f"{len(eligible)} requests are fit to train on; train.max_requests is {train.max_requests}")
    return Sample(requests.take(_draw(eligible, train.max_requests, seed)), min_history, notes)


def sample_validation(requests: AnyRequests, min_history: int, train: TrainParams, seed: int) -> AnyRequests:
    """VALIDATION_SHARE of train.max_requests, sampled from the whole validation part; none if it is empty."""
    eligible = np.flatnonzero(requests.num_events >= min_history)
    return requests.take(_draw(eligible, max(int(VALIDATION_SHARE * train.max_requests), 1), seed))


def require_both_labels(requests: Requests) -> None:
    """Raise InputError if training has no clicks or nothing else. requests: this process's share; every process has to
    call it, and sees the labels of all."""
    counts = gathered((int(is_click(requests.label).sum()), len(requests.label), len(requests)))
    clicks, rows, number = (sum(column) for column in zip(*counts, strict=True))
    if clicks in (0, rows):
        what = "no clicks" if clicks == 0 else "nothing but clicks"
        raise InputError(
            f"The {rows:,} candidates of the {number:,} requests to train on hold {what}: training needs "
            "both clicks and non-clicks. Map a label column in source.columns, or check source.label_threshold."
        )


def _draw(positions: np.ndarray, number: int, seed: int) -> np.ndarray:
    if len(positions) <= number:
        return positions
    return np.sort(np.random.default_rng(seed).choice(positions, number, replace=False))
