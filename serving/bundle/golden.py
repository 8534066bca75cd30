"""Golden requests: test requests with their inputs and scores, stored in a bundle and reproduced at every start."""

import json
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from pydantic import TypeAdapter

from contracts.errors import InputError
from serving.bundle.scorer import Events, Scorer

log = logging.getLogger("leitmotif")

Floats = npt.NDArray[np.floating]

TOLERANCE = 1e-5
"""Largest difference of a logit relative to 1 + its size, since CPUs differ in the order of additions."""
NEAR_TIE = 1e-5
"""Shares of two themes that differ by less are a near tie: a hundred times the rounding between devices."""
FLIP_LIMIT = 1.0
"""Largest difference of a logit, relative like TOLERANCE, that a flipped routing can explain."""
MAX_FLIPPED_SHARE = 0.05
"""Share of golden candidates whose score may differ because of a near tie."""
NUM_LATER_EVENTS = 3
"""Events at or after the request's time in a golden request, so that each start proves that they are masked."""


@dataclass(frozen=True)
class GoldenRequest:
    """One request with its inputs and logits."""

    request: str  # impression_id of the log
    user_id: str
    at: int  # us
    item_ids: list[str]  # the history's newest events, those after `at` included
    occurred_at: list[int]
    labels: list[float]
    sessions: list[int]
    candidates: list[str]
    scalars: list[list[float]]
    event_codes: list[list[float]]  # of the newest known events' items
    candidate_codes: list[list[float]]
    logits: list[float]

    @property
    def events(self) -> Events:
        """The history in the scorer's form."""
        return Events(
            self.item_ids,
            np.array(self.occurred_at, np.int64),
            np.array(self.labels, np.float32),
            np.array(self.sessions, np.int64),
        )

    def rescore(self, scorer: Scorer) -> list[float]:
        """The logits that a scorer gives now."""
        known = scorer.newest_events(self.events, self.at, scorer.spec.history_length)
        state = scorer.user_side(self.events, self.at, _table(self.event_codes, len(known.item_ids)))
        num = len(self.candidates)
        scalars, codes = _table(self.scalars, num), _table(self.candidate_codes, num)
        return scorer.score(state, scorer.item_index(self.candidates), scalars, codes).logit_M.tolist()


def _table(rows: list[list[float]], num: int) -> npt.NDArray[np.float32]:
    return (
        np.array(rows, np.float32).reshape(num, -1) if num else np.zeros((0, len(rows[0]) if rows else 0), np.float32)
    )


def window(scorer: Scorer, events: Events, at: int) -> Events:
    """The part of a history that a golden request stores: the newest L known events and a few later ones."""
    end = scorer.known_events(events, at)
    return events.between(max(0, end - scorer.spec.history_length), end + NUM_LATER_EVENTS)


def write_golden(path: Path, requests: Sequence[GoldenRequest]) -> None:
    """Write a JSON list with one request per line."""
    lines = (json.dumps(asdict(request), ensure_ascii=False, sort_keys=True) for request in requests)
    path.write_text("[\n" + ",\n".join(lines) + "\n]\n", encoding="utf-8")


def read_golden(path: Path) -> list[GoldenRequest]:
    """Read what write_golden wrote. Raises ValueError if it is invalid."""
    read = TypeAdapter(list[GoldenRequest]).validate_json(path.read_bytes(), strict=True)
    for golden in read:
        of_events = {len(golden.item_ids), len(golden.occurred_at), len(golden.labels), len(golden.sessions)}
        of_candidates = {
            len(each) for each in (golden.candidates, golden.scalars, golden.candidate_codes, golden.logits)
        }
        if len(of_events) > 1 or len(of_candidates) > 1:
            raise ValueError(f"request {golden.request!r} has columns of different lengths")
    return read


class Reproduced(NamedTuple):
    """The result of reproducing the golden requests."""

    num_candidates: int
    num_flipped: int  # candidates whose score differs because a near tie is routed differently
    largest: float  # largest difference of a logit among them


def check_golden(scorer: Scorer, requests: Sequence[GoldenRequest]) -> Reproduced:
    """Raise InputError unless every golden request reproduces its scores.

    Routing chooses the largest of T shares. If two are equal up to rounding, another device may choose the other one,
    and the score jumps. Such scores are logged and allowed up to MAX_FLIPPED_SHARE of all; other code or weights would
    change more scores, and scores without a near tie.
    """
    flipped, num_candidates = [], 0
    for golden in requests:
        wanted, got = np.array(golden.logits), np.array(golden.rescore(scorer))
        off = differences(got, wanted)
        jumped = ~(off <= TOLERANCE)  # True for NaN
        real = jumped & ~(near_tie(scorer, golden) & (off <= FLIP_LIMIT))
        if real.any():
            worst = int(np.argmax(np.where(np.isnan(off), np.inf, off) * real))
            raise InputError(
                f"Golden request {golden.request!r} does not reproduce: candidate {golden.candidates[worst]!r} scores "
                f"{got[worst]:.7f} here and {wanted[worst]:.7f} when packaged (tolerance {TOLERANCE:g}). The code "
                "differs from the code that packaged it, or this machine computes differently. `make run` packages it "
                "again here."
            )
        flipped += np.abs(got - wanted)[jumped].tolist()
        num_candidates += len(wanted)
    return count_flipped(flipped, num_candidates)


def count_flipped(flipped: Sequence[float], num_candidates: int) -> Reproduced:
    """Log the number of flipped scores. Raises InputError if rounding cannot explain so many."""
    found = Reproduced(num_candidates, len(flipped), max(flipped, default=0.0))
    if len(flipped) > MAX_FLIPPED_SHARE * num_candidates:
        raise InputError(
            f"{len(flipped):,} of {num_candidates:,} golden candidates have other scores than when packaged, by up to "
            f"{found.largest:.4f}, each at a near tie of routing; rounding explains at most {MAX_FLIPPED_SHARE:.0%}. "
            "`make run` packages it again here."
        )
    if flipped:
        log.warning(
            "%d of %s golden candidates are routed differently here, at a near tie; their logits differ by up to %.4f",
            len(flipped), f"{num_candidates:,}", found.largest,
        )  # fmt: skip
    return found


def differences(got: Floats, wanted: Floats) -> Floats:
    """[M] differences of logits, relative to 1 + their size."""
    return np.abs(got - wanted) / (1 + np.abs(wanted))


def near_tie(scorer: Scorer, golden: GoldenRequest) -> npt.NDArray[np.bool_]:
    """[M] whether a candidate's score depends on a near tie, in its own routing or in that of a history event."""
    if not scorer.theme_NT.shape[1]:
        return np.zeros(len(golden.candidates), bool)
    encoded = scorer.encode(golden.events, golden.at)
    num = int(encoded.mask.sum()), len(golden.candidates)
    codes, code_MF = _table(golden.event_codes, num[0]), _table(golden.candidate_codes, num[1])
    of_events = scorer.routing(encoded, codes)[encoded.mask.reshape(-1)]
    of_events = of_events[of_events.any(axis=1)]  # events without a theme have no tie
    if (margin(of_events, 1) < NEAR_TIE).any():
        return np.ones(len(golden.candidates), bool)
    routing_MT = scorer.themes(scorer.item_index(golden.candidates), code_MF)
    return (margin(routing_MT, scorer.params.num_candidate_themes) < NEAR_TIE) & routing_MT.any(axis=1)


def margin(routing: Floats, num_chosen: int) -> Floats:
    """Difference of the last chosen theme and the first that is not chosen; infinite if all are chosen."""
    if num_chosen >= routing.shape[1]:
        return np.full(len(routing), np.inf)
    falling = -np.sort(-routing, axis=1)
    return falling[:, num_chosen - 1] - falling[:, num_chosen]
