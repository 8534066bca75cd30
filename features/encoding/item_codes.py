"""Items and times -> co-click codes: the mean code of an item's readers before that time, for the router. numpy only.

Training calls it for batches of requests, serving for one; both run the same code. Codes of candidates and of history
events are as of the request; they are not trained, so even an item an hour old has one.
"""

import numpy as np
import numpy.typing as npt

from contracts.errors import InputError
from features.encoding.counters import Counters
from features.encoding.encode import FeatureSpec
from features.terms.convention import micros

Float32 = npt.NDArray[np.float32]


def item_codes(spec: FeatureSpec, counters: Counters, item_keys: npt.ArrayLike, at: npt.ArrayLike) -> Float32:
    """[*shape, spec.code_width] codes of items as known at a time; 0 if nobody had read the item.

    item_keys: [*shape] positions in the vocabulary (item_index - FIRST_INDEX), negative where unknown. at: us, of their
    shape or broadcast. A click is known spec.clicks_lag_s after its time, as for scalars.
    """
    keys = np.asarray(item_keys, np.int64)
    if not spec.code_width:
        return np.zeros((*keys.shape, 0), np.float32)
    if counters.coclicks is None:
        raise InputError("statistics.coclick_rank is set, but data/ holds no co-clicks. `dvc repro statistics`.")
    return counters.coclicks.item_codes(keys, np.asarray(at, np.int64) - micros(spec.clicks_lag_s))
