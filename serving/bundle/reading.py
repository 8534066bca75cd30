"""An online store and a request -> the scorer's inputs of user and candidates, for the service and for package."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from features.encoding.asked import Asked, Context, recent_clicks
from features.encoding.counters import Counters
from features.encoding.item_codes import item_codes
from features.encoding.scalars import scalars_of_one
from features.online.store import OnlineStore
from features.terms.convention import RECENT
from serving.bundle.scorer import NO_EVENTS, Events, Scorer


def read_events(store: OnlineStore, user_id: str) -> Events | None:
    """All stored events of a user, live events included; None if the store does not know the id."""
    history, counted = store.read(user_id)
    if history is None:
        return None
    return Events(history.item_ids, history.occurred_at, history.label, history.session, counted)


def read_codes(
    scorer: Scorer, store: OnlineStore, events: Events | None, candidates: Sequence[str], at: int
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Co-click codes of (newest known events, candidates) as of a time. events: from read_events."""
    newest = scorer.newest_events(events or NO_EVENTS, at, scorer.spec.history_length)
    if not (width := scorer.spec.code_width):  # as for most logs; saves looking up the keys
        return np.zeros((len(newest.item_ids), width), np.float32), np.zeros((len(candidates), width), np.float32)
    keys = store.item_keys(newest.item_ids), store.item_keys(candidates)
    of_events, of_candidates = (item_codes(scorer.spec, store.counters, each, at) for each in keys)
    return of_events, of_candidates


def read_scalars(
    scorer: Scorer,
    store: OnlineStore,
    user_id: str,
    events: Events | None,
    candidates: Sequence[str],
    at: int,
    context: Context,
) -> npt.NDArray[np.float32]:
    """[M, S] scalar features of the candidates. events: from read_events."""
    newest = scorer.newest_events(events or NO_EVENTS, at, RECENT)
    clicks = recent_clicks(store.item_keys(newest.item_ids), newest.label)
    reading = store.item_key(context.reading_item_id)
    key, counters = _counters_of(store, user_id, events)
    asked = Asked.of_one(key, at, clicks, reading, context)
    return scalars_of_one(scorer.spec, counters, store.item_keys(candidates), asked)


def _counters_of(store: OnlineStore, user_id: str, events: Events | None) -> tuple[int, Counters]:
    """(the user's key, counters with the user's counts); key -1 and no counts for a forgotten user."""
    if events is None and store.is_forgotten(user_id):
        return -1, store.counters
    counted = None if events is None else events.counted
    return store.counters_of(user_id, store.counted([user_id])[0] if counted is None else counted)
