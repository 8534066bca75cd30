"""Real test requests with all that they saw and their scores: written with a bundle, reproduced at every start."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from pydantic import TypeAdapter

from contracts.errors import InputError
from serving.bundle.scorer import Events, Scorer

TOLERANCE = 1e-5
"""Largest difference of a logit, relative to 1 + its size: another CPU adds in another order."""
NUM_LATER_EVENTS = 3
"""Events at or after the request's time that a golden request holds, so that each start proves that they are masked."""


@dataclass(frozen=True)
class GoldenRequest:
    """One request as it was scored."""

    request: str  # the log's own name of it
    user_id: str
    at: int  # us
    item_ids: list[str]  # the history's newest events, those after `at` included
    occurred_at: list[int]
    labels: list[float]
    sessions: list[int]
    candidates: list[str]
    scalars: list[list[float]]
    logits: list[float]

    @property
    def events(self) -> Events:
        """The history as the scorer reads it."""
        return Events(
            self.item_ids,
            np.array(self.occurred_at, np.int64),
            np.array(self.labels, np.float32),
            np.array(self.sessions, np.int64),
        )

    def rescore(self, scorer: Scorer) -> list[float]:
        """The logits that a scorer gives now."""
        state = scorer.user_side(self.events, self.at)
        scalars = np.array(self.scalars, np.float32).reshape(len(self.candidates), -1)
        return scorer.score(state, scorer.item_index(self.candidates), scalars).logit_M.tolist()


def window(scorer: Scorer, events: Events, at: int) -> Events:
    """The part of a history that a golden request keeps: the newest L known events and a few later ones."""
    end = scorer.known_events(events, at)
    return events.between(max(0, end - scorer.spec.history_length), end + NUM_LATER_EVENTS)


def write_golden(path: Path, requests: Sequence[GoldenRequest]) -> None:
    """One request a line."""
    lines = (json.dumps(asdict(request), ensure_ascii=False, sort_keys=True) for request in requests)
    path.write_text("[\n" + ",\n".join(lines) + "\n]\n", encoding="utf-8")


def read_golden(path: Path) -> list[GoldenRequest]:
    """What write_golden wrote. Raises ValueError where it is something else."""
    read = TypeAdapter(list[GoldenRequest]).validate_json(path.read_bytes(), strict=True)
    for golden in read:
        of_events = {len(golden.item_ids), len(golden.occurred_at), len(golden.labels), len(golden.sessions)}
        of_candidates = {len(golden.candidates), len(golden.scalars), len(golden.logits)}
        if len(of_events) > 1 or len(of_candidates) > 1:
            raise ValueError(f"request {golden.request!r} has columns of several lengths")
    return read


def check_golden(scorer: Scorer, requests: Sequence[GoldenRequest]) -> None:
    """Raise InputError unless every golden request gets its scores again."""
    for golden in requests:
        wanted, got = np.array(golden.logits), np.array(golden.rescore(scorer))
        off = np.abs(got - wanted) / (1 + np.abs(wanted))
        if not (off <= TOLERANCE).all():  # a NaN is not within
            worst = int(np.nanargmax(np.where(np.isnan(off), np.inf, off)))
            raise InputError(
                f"Golden request {golden.request!r} does not reproduce: candidate {golden.candidates[worst]!r} scores "
                f"{got[worst]:.7f} here and {wanted[worst]:.7f} when packaged (tolerance {TOLERANCE:g}). The code is "
                "not that which made the bundle, or this machine computes otherwise. `make run` packages it anew here."
            )
