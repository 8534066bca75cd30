"""A user's events and some items -> the history as if the user had just clicked the items. Nothing is stored."""

from collections.abc import Sequence

import numpy as np

from features.encoding.encode import FeatureSpec
from features.terms.convention import micros
from features.terms.sessions import NO_SESSION, SessionRule, number_sessions
from serving.bundle.scorer import NO_EVENTS, Events


def supposed(events: Events | None, item_ids: Sequence[str], at: int, spec: FeatureSpec) -> Events | None:
    """The events known at `at`, followed by a click on each item, oldest first, at the newest times known then.

    Counters do not include these clicks. Nor would they include real clicks this recent: counters have longer lags.
    """
    if not item_ids:
        return events
    known_upto = at - micros(spec.history_lag_s)
    known = NO_EVENTS if events is None else events.between(0, int(np.searchsorted(events.occurred_at, known_upto)))
    times = known_upto - np.arange(len(item_ids), 0, -1)
    occurred_at = np.maximum.accumulate(np.concatenate([known.occurred_at, times]))
    return Events(
        [*known.item_ids, *item_ids],
        occurred_at,
        np.concatenate([known.label, np.ones(len(item_ids), np.float32)]),
        np.concatenate([known.session, _sessions(known, occurred_at[len(known.item_ids) :], spec)]),
        None if events is None else events.counted,
    )


def _sessions(known: Events, occurred_at: np.ndarray, spec: FeatureSpec) -> np.ndarray:
    """Session numbers of the supposed clicks, which continue the newest known session if the session rule allows."""
    newest = known.occurred_at[-1:]
    times = np.concatenate([newest, occurred_at])
    first = np.arange(len(times)) == 0
    rule = SessionRule.of(spec.session_gap_s, spec.session_max_s)
    numbers = number_sessions(rule, first, times, np.full(len(times), NO_SESSION, np.int64))[len(newest) :]
    return numbers + (known.session[-1] if len(newest) else 0)
