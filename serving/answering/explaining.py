"""A ranking -> the same with reasons for its first items: the parts of the logit, and the events that raised it."""

from collections.abc import Sequence

import numpy as np

from features.encoding.asked import Context
from features.online.store import OnlineStore
from serving.answering.requests import Carried, RankedItem, Reasons, to_iso
from serving.bundle.explained import Why, why
from serving.bundle.reading import read_codes, read_scalars
from serving.bundle.scorer import NO_EVENTS, Events, Scorer

MAX_EXPLAINED = 50
"""How many items of an answer get reasons. Each event is left out once, which takes the time of that many rankings."""
NUM_CARRIED = 5
"""How many events an item's reasons name, at most."""


def with_reasons(
    scorer: Scorer,
    store: OnlineStore,
    user_id: str,
    events: Events | None,
    candidates: Sequence[str],
    items: Sequence[RankedItem],
    at: int,
    context: Context,
) -> list[RankedItem]:
    """The same items with reasons for the first MAX_EXPLAINED. items: a ranking of `candidates`, best first."""
    row_of = {item_id: row for row, item_id in enumerate(candidates)}
    rows = [row_of[item.item_id] for item in items[:MAX_EXPLAINED]]
    known = scorer.newest_events(events or NO_EVENTS, at, scorer.spec.history_length)
    scalars_MS = read_scalars(scorer, store, user_id, events, candidates, at, context)[rows]  # some compare candidates
    codes, code_MF = read_codes(scorer, store, events, candidates, at)
    state = scorer.user_side(known, at, codes)
    found = why(scorer, state, scorer.item_index([candidates[row] for row in rows]), scalars_MS, code_MF[rows])
    first_slot = scorer.spec.history_length - len(known.item_ids)
    explained = [
        item.model_copy(update={"reasons": _reasons(found, row, known, first_slot)})
        for row, item in enumerate(items[:MAX_EXPLAINED])
    ]
    return explained + list(items[MAX_EXPLAINED:])


def _reasons(found: Why, row: int, known: Events, first_slot: int) -> Reasons:
    carried_C, slot_C = found.carried_MC[row], found.slot_MC[row]
    best = [place for place in np.argsort(-carried_C, kind="stable")[:NUM_CARRIED] if carried_C[place] > 0]
    return Reasons.model_construct(
        contributions={name: float(part_M[row]) for name, part_M in found.parts.items()},
        history=[
            Carried.model_construct(
                item_id=known.item_ids[slot_C[place] - first_slot],
                occurred_at=to_iso(int(known.occurred_at[slot_C[place] - first_slot])),
                share=float(carried_C[place]),
            )
            for place in best
        ],
    )
