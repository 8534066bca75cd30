"""A bundle's catalogue, an online store and a time -> as of then: items on offer, clicks, new items, themes.

Counters are read as they are for scoring, live events included. Shapes: N items of the vocabulary, T themes.
"""

from dataclasses import dataclass, field
from threading import Lock
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc

from features.encoding.as_of import END_OF_TIME
from features.encoding.item_codes import item_codes
from features.online.store import OnlineStore
from features.terms.convention import micros
from serving.bundle.loaded import Bundle
from serving.params import RetrievalParams

Int64 = npt.NDArray[np.int64]
Bool = npt.NDArray[np.bool_]
Float32 = npt.NDArray[np.float32]

STEP_US = 60_000_000
"""Counts are read once per minute, as of the last full minute. An event counts from the time it is acknowledged, so the
counts of a past minute never change."""
NUM_KEPT = 4
"""Minutes in the cache: current requests share one; a page that looks back in time needs a few."""


class Offers(NamedTuple):
    """The catalogue as of a time."""

    on_offer_N: Bool
    clicks_N: Int64  # in the last retrieval.popular_s
    born_N: Int64  # us, when the item was published or first seen in the log, the earlier; END_OF_TIME: neither yet
    new_N: Bool  # born in the last retrieval.new_s
    routing_NT: Float32  # uses the item's readers if the model was trained to; T is 0 for a model without themes
    """By theme in memory, since a search reads one theme of all items."""


@dataclass
class Offering:
    """One worker's cache of the catalogue as of recent minutes. Thread-safe."""

    bundle: Bundle
    store: OnlineStore
    _kept: dict[int, Offers] = field(default_factory=dict)
    _keys_N: Int64 | None = None
    _routing_NT: Float32 | None = None
    _lock: Lock = field(default_factory=Lock)

    def at(self, at: int) -> Offers:
        """The catalogue as of the last full minute before `at`, in us."""
        minute = at // STEP_US * STEP_US
        with self._lock:
            if (kept := self._kept.get(minute)) is not None:
                return kept
            read = self._read(minute)
            if minute <= self.store.clock.now():  # a future minute is not cached: events may still precede it
                while len(self._kept) >= NUM_KEPT:
                    del self._kept[next(iter(self._kept))]
                self._kept[minute] = read
            return read

    def _read(self, at: int) -> Offers:
        index, spec, params = self.bundle.index, self.bundle.scorer.spec, self.bundle.manifest.limits.retrieval
        table, keys = self.store.counters.item_counters, self._item_keys()
        shows_lag, clicks_lag = micros(spec.shows_lag_s), micros(spec.clicks_lag_s)
        _, clicks_N = table.window(keys, at, clicks_lag, micros(params.popular_s))
        first_N = table.first_seen(keys)
        first_N = np.where(first_N < at - shows_lag, first_N, END_OF_TIME)
        published_N = pc.fill_null(index.catalogue["published_at"], END_OF_TIME).to_numpy()
        born_N = np.minimum(first_N, np.where(published_N < at, published_N, END_OF_TIME))
        is_new_N = (born_N != END_OF_TIME) & (born_N >= at - micros(params.new_s))
        return Offers(
            on_offer_N=(born_N != END_OF_TIME)
            & (is_new_N | _is_shown(params, table.last_seen(keys, at - shows_lag), at)),
            clicks_N=clicks_N,
            born_N=born_N,
            new_N=is_new_N,
            routing_NT=self._routing(keys, at),
        )

    def _item_keys(self) -> Int64:
        """[N] keys of the catalogue. Only items without one are looked up again: a live event may give them one."""
        item_ids = self.bundle.index.item_ids
        if self._keys_N is None:
            self._keys_N = self.store.item_keys(item_ids)
        elif len(rows := np.flatnonzero(self._keys_N < 0)):
            self._keys_N[rows] = self.store.item_keys([item_ids[row] for row in rows.tolist()])
        return self._keys_N

    def _routing(self, keys: Int64, at: int) -> Float32:
        """As Offers.routing_NT; computed once if the model reads no co-click codes, for then it never changes."""
        if self._routing_NT is None or self.bundle.scorer.reads_codes:
            scorer, index = self.bundle.scorer, self.bundle.index
            codes = item_codes(scorer.spec, self.store.counters, keys, at)
            self._routing_NT = np.asfortranarray(scorer.themes(index.index_N, codes))
        return self._routing_NT


def _is_shown(params: RetrievalParams, last_N: Int64, at: int) -> Bool:
    """[N] whether the item was shown in the last idle_s. An item never shown has a last show at END_OF_TIME."""
    if params.idle_s is None:
        return np.ones(len(last_N), bool)
    return (last_N != END_OF_TIME) & (last_N >= at - micros(params.idle_s))
