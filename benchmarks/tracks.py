"""data/<source> and params.yaml -> the train, validation and test parts with the scalars of a track."""

import logging
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from contracts.errors import InputError
from features.encoding.counters import Counters
from features.encoding.encode import FeatureSpec
from features.terms.convention import is_click
from training.requests.batches import read_scalars
from training.requests.catalogue import load_counters, load_vocabulary
from training.requests.reader import Cuts, Events, Requests, cut_times, iso, load_events, load_requests, log_end
from training.train import feature_spec

log = logging.getLogger("leitmotif")

PARTS = ("train", "validation", "test")
TRACKS = {"challenge": True, "serving": False}
"""Track -> whether its scalars compare a candidate with its list."""


@dataclass(frozen=True)
class Log:
    """One source's requests by part, its counters, and what params.yaml says of the features."""

    source: str
    parts: dict[str, Requests]
    cuts: Cuts
    counters: Counters
    events: Events
    spec: FeatureSpec


@dataclass(frozen=True)
class Part:
    """Requests and the scalars of their candidates."""

    requests: Requests
    scalars: npt.NDArray[np.float32]  # [N, S]

    @property
    def label(self) -> npt.NDArray[np.float32]:
        """[N] 1 clicked."""
        return is_click(self.requests.label).astype(np.float32)

    @property
    def sizes(self) -> npt.NDArray[np.int64]:
        """[R] candidates of each request."""
        return np.diff(self.requests.row_starts)


@dataclass(frozen=True)
class Track:
    """The three parts under one feature spec."""

    spec: FeatureSpec
    train: Part
    validation: Part
    test: Part

    def column(self, part: Part, name: str) -> npt.NDArray[np.float32]:
        """One scalar of a part, by its name."""
        return part.scalars[:, self.spec.scalars.index(name)]


def open_log(data: Path, sections: dict[str, Any], max_requests: int) -> Log:
    """Read requests and counters. max_requests: the latest of the train part are kept.

    Raises InputError where a part is empty or the outs are missing.
    """
    missing = [name for name in ("impressions", "user_histories", "item_counters") if not (data / name).exists()]
    if missing:
        raise InputError(f"{data} lacks {', '.join(missing)}. `make run SOURCE={data.name}` makes them.")
    events = load_events(data)
    requests = load_requests(data, events)
    cuts = cut_times(sections["split"], sections["labels"], requests.at, log_end(requests, events))
    parts = {name: cuts.part(requests, name) for name in PARTS}
    if len(parts["train"]) > max_requests:
        parts["train"] = parts["train"].take(np.arange(len(parts["train"]))[-max_requests:])
    empty = [name for name, part in parts.items() if not len(part)]
    if empty:
        raise InputError(f"{data} has no request in {', '.join(empty)} ({_say(cuts)}). Move params.yaml's split.")
    log.info("%s: %s", _say(cuts), ", ".join(f"{name} {len(part):,} requests" for name, part in parts.items()))
    spec = feature_spec(sections["history"], sections["model"], sections["statistics"])
    return Log(data.name, parts, cuts, load_counters(data, load_vocabulary(data)), events, spec)


def read_track(source: Log, spec: FeatureSpec) -> Track:
    """Compute the scalars of all parts."""
    began = time.perf_counter()
    parts = {
        name: Part(part, read_scalars(spec, source.events, part, source.counters))
        for name, part in source.parts.items()
    }
    num_rows = sum(len(part.scalars) for part in parts.values())
    log.info("%d scalars of %s rows in %.1f s", len(spec.scalars), f"{num_rows:,}", time.perf_counter() - began)
    return Track(spec, **parts)


def _say(cuts: Cuts) -> str:
    return f"train from {iso(cuts.train_at)}, validation from {iso(cuts.validation_at)}, test from {iso(cuts.test_at)}"
