"""Bundles and the current log -> their scores of the newest requests, on which none of them was trained.

Each bundle reads the log with its own weights, vocabulary and feature spec, as a service of that bundle would.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from contracts.errors import InputError
from contracts.schema import FIRST_INDEX, UNKNOWN_INDEX
from features.encoding.counters import Counters
from features.encoding.encode import FeatureSpec
from features.terms.convention import micros
from features.terms.params import LabelParams
from serving.bundle.golden import check_golden
from serving.bundle.loaded import MODEL, Bundle, open_weights, read_json
from serving.bundle.scorer import Scorer
from serving.bundle.stored import other_coclicks, other_histories
from training.judging.measure import Scored
from training.judging.scoring import score_requests
from training.judging.slices import Mask, cold_users, requests_since_shift, slice_masks
from training.metrics import sigmoid
from training.requests.batches import Batch, RequestDataset, read_scalars
from training.requests.catalogue import Vocabulary, load_counters, load_vocabulary
from training.requests.reader import (
    Cuts,
    Events,
    Requests,
    iso,
    load_bare_requests,
    load_events,
    log_end,
    with_candidates,
)

SNAPSHOT = Path("feature_snapshot/snapshot.json")
ANYWAY = "`make promote ARGS=--force` promotes the newest without a comparison"


class Incomparable(Exception):
    """Two bundles cannot be compared on this log. The message is one sentence: why, and what to do."""


@dataclass(frozen=True)
class Newest:
    """The current log and its newest requests."""

    data: Path
    vocabulary: Vocabulary
    events: Events
    requests: Requests
    since_shift: npt.NDArray[np.int64]  # [R]
    counters: Counters
    settings: Mapping[str, Any]  # parameters that the log was stored with


@dataclass(frozen=True)
class Fitted:
    """A bundle that reproduces its golden requests here."""

    bundle: Bundle
    name: str
    trained_before_us: int
    chosen_before_us: int

    @property
    def scorer(self) -> Scorer:
        return self.bundle.scorer


def open_champion(path: Path, what: str) -> Fitted:
    """Raises Incomparable if this code cannot reproduce the bundle's scores."""
    try:
        return open_fitted(path, what)
    except InputError as error:
        raise Incomparable(f"{what} cannot be scored by this code: {str(error).rstrip('.')}; {ANYWAY}") from error


def open_fitted(path: Path, what: str) -> Fitted:
    """Raises InputError if the bundle is damaged or does not reproduce its golden requests."""
    bundle = open_weights(path)
    check_golden(bundle.scorer, bundle.golden)
    description = read_json(path / MODEL)
    missing = [key for key in ("trained_before_us", "chosen_before_us") if not isinstance(description.get(key), int)]
    if missing:
        raise Incomparable(
            f"{what} was packaged by an older version, which did not record until when it was trained; {ANYWAY}"
        )
    bundle.scorer.model.to("cpu")
    name = description.get("name", "mos")
    return Fitted(bundle, name, description["trained_before_us"], description["chosen_before_us"])


def load_newest(data: Path, sides: Sequence[Fitted], labels: LabelParams, max_requests: int) -> Newest:
    """The newest requests that no side was trained or chosen on, and whose labels are known.

    Raises InputError if the log is missing, Incomparable if it has no such request.
    """
    for name in ("user_histories", "impressions", "item_counters"):
        if not (data / name).is_dir():
            raise InputError(f"{data / name} does not exist, so nothing can be compared. `make run` makes it.")
    settings = read_json(data / SNAPSHOT)["settings"]
    vocabulary, events = load_vocabulary(data), load_events(data)
    every = load_bare_requests(data, events)
    since = max(side.chosen_before_us for side in sides)
    end = log_end(every, events)
    cuts = Cuts(train_at=0, validation_at=0, test_at=since, log_end=end, delay=micros(labels.delay_s))
    newest = np.flatnonzero(cuts.holds(every, "test"))[-max_requests:]
    if not len(newest):
        raise Incomparable(
            f"no request of {data} is later than {iso(since)}, up to which the two were trained and chosen (the log "
            f"ends {iso(end)}); `make run` with newer data adds some"
        )
    shifts = requests_since_shift(data, every, sides[0].scorer.spec.session_gap_s)[newest]
    chosen = with_candidates(data, every.take(newest))
    return Newest(data, vocabulary, events, chosen, shifts, load_counters(data, vocabulary), settings)


def score(side: Fitted, newest: Newest, what: str) -> Scored:
    """A bundle's scores of the requests. Raises Incomparable if it cannot read this log."""
    spec = side.scorer.spec
    _require_readable(side, newest, what)
    scalars = read_scalars(spec, newest.events, newest.requests, newest.counters)
    requests = _ReadByBundle(spec, newest, scalars, _own_index(side, newest.vocabulary))
    logits = score_requests(what, side.scorer.model, requests)
    if not np.isfinite(logits).all():
        raise Incomparable(f"{what} gives some of these requests a score that is not a finite number; {ANYWAY}")
    return Scored(logits, sigmoid(logits))


class _ReadByBundle(RequestDataset):
    """The newest requests with a bundle's own item_index. Codes are read by the log's, by which counters are kept."""

    def __init__(
        self, spec: FeatureSpec, newest: Newest, scalars: npt.NDArray[np.float32], index_N: npt.NDArray[np.int64]
    ) -> None:
        super().__init__(spec, newest.events, newest.requests, scalars, newest.counters)
        self.index_N = torch.from_numpy(index_N)

    def __getitems__(self, positions: Sequence[int] | npt.NDArray[np.int64]) -> Batch:
        batch = super().__getitems__(positions)
        history, candidates = batch.history, batch.candidates
        return batch._replace(
            history=history._replace(item_index_UL=self.index_N[history.item_index_UL]),
            candidates=candidates._replace(item_index_B=self.index_N[candidates.item_index_B]),
        )


def masks_of(side: Fitted, newest: Newest) -> dict[str, Mask]:
    """The slices of the requests; cold users and items are those of this side."""
    row_N = side.scorer.model.catalogue.row_of_N.numpy()[_own_index(side, newest.vocabulary)]
    unseen = cold_users(newest.events, newest.requests, side.trained_before_us)
    return slice_masks(newest.requests, newest.since_shift, row_N, unseen)


def _own_index(side: Fitted, vocabulary: Vocabulary) -> npt.NDArray[np.int64]:
    """[N] item_index of the log -> the bundle's own; unknown where its vocabulary lacks the item."""
    index_N = np.full(vocabulary.num_items, UNKNOWN_INDEX)
    index_N[:FIRST_INDEX] = np.arange(FIRST_INDEX)
    index_N[FIRST_INDEX:] = [side.scorer.index_of.get(item_id, UNKNOWN_INDEX) for item_id in vocabulary.item_ids]
    return index_N


def _require_readable(side: Fitted, newest: Newest, what: str) -> None:
    """Raises Incomparable if the log is stored with other settings than the bundle was trained with."""
    spec, settings = side.scorer.spec, newest.settings
    back = f"restore it in params.yaml and `make run`, or {ANYWAY}"
    if differ := other_histories(spec, settings):
        raise Incomparable(f"{what} reads other histories than the log has now, history.{differ[0]}; {back}")
    if (counted := other_coclicks(spec, settings)) is not None:
        raise Incomparable(
            f"{what} reads co-clicks of rank {spec.coclick_rank}, but the log's are of rank "
            f"{counted['coclick_rank']}; {back}"
        )
    bucket_s = settings.get("statistics", {}).get("bucket_s", 0)
    if finer := [window for window in spec.windows_s if window < bucket_s]:
        raise Incomparable(
            f"{what} reads counts of the trailing {finer[0]} s, but the log's buckets are {bucket_s:g} s; {back}"
        )
    if not any(item_id in side.scorer.index_of for item_id in newest.vocabulary.item_ids):
        raise Incomparable(
            f"{what} knows none of the {len(newest.vocabulary.item_ids):,} items of the log: their ids have changed; "
            f"restore them and `make run`, or {ANYWAY}"
        )
