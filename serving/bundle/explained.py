"""Scored candidates -> explanations: parts that add up to the logit, and the contribution of each history event.

Computed on request only. Shapes: M candidates, C events that may contribute.
"""

from typing import Any, NamedTuple

from contracts.errors import InputError
from serving.bundle.programmed import VARIABLE, ProgramScorer
from serving.bundle.scorer import Float32, Int64, Scorer

BASE = "base"
"""Part of the logit that does not depend on the history: the item, its counters, the match of themes."""
HISTORY = "history"
"""Part that the history adds, for models that read it as a whole."""


class Why(NamedTuple):
    """Explanation of each candidate."""

    parts: dict[str, Float32]  # [M] each; they add up to the logit
    slot_MC: Int64  # events, as positions in the encoded history
    carried_MC: Float32  # decrease of the logit without the event; 0 where there is no event


def why(scorer: Scorer, state: Any, item_index: Int64, scalars: Float32, code_MF: Float32 | None = None) -> Why:
    """Explain the logits of Scorer.score, called with the same arguments.

    Raises InputError if the scorer computes by programs: an explanation looks into the model.
    """
    if isinstance(scorer, ProgramScorer):
        raise InputError(
            f"This service computes by exported programs ({VARIABLE}), which give scores and no reasons. Ask without "
            f"`explain`, or start it without {VARIABLE}, where the code of the models is installed."
        )
    from serving.bundle.explanation import explain_scores  # with the model's code

    return explain_scores(scorer, state, item_index, scalars, code_MF)
