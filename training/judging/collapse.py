"""A model's routing, the catalogue and the events -> how evenly themes are used, as figures and as warnings."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from contracts.schema import FIRST_INDEX
from training.model.build import Model
from training.model.ranker import Items

CROWDED_SHARE = 0.25
"""A theme is crowded if it holds at least this share and at least CROWDED_TIMES the even share."""
CROWDED_TIMES = 3.0


def theme_use(
    model: Model, event_items: npt.NDArray[np.integer], code_NF: npt.NDArray[np.float32] | None = None
) -> dict[str, Any]:
    """{by_items, by_events}, each with num_empty, largest, largest_share and entropy (1: even, 0: one theme).

    An item counts for its top theme; an item with nothing known (no row, category or code) counts for none.
    event_items: item_index of every history event, which counts for its item's theme. code_NF: co-click codes of all
    items as of one time; None if the log has none.
    """
    num_themes, every = model.params.num_themes, torch.arange(len(model.catalogue.row_of_N))
    with torch.inference_mode():
        routing_NT = model.tables(
            Items(every, None if code_NF is None else torch.from_numpy(code_NF))
        ).routing_NT.numpy()
    placed_N = routing_NT.max(axis=1) > 0
    placed_N[:FIRST_INDEX] = False
    theme_of_item = np.where(placed_N, routing_NT.argmax(axis=1), num_themes)  # num_themes: none
    by_items = np.bincount(theme_of_item[placed_N], minlength=num_themes)
    by_events = np.bincount(theme_of_item[event_items], minlength=num_themes + 1)[:num_themes]
    return {"num_themes": num_themes, "by_items": spread(by_items), "by_events": spread(by_events)}


def spread(counts_T: npt.NDArray[np.integer]) -> dict[str, Any]:
    """How evenly the counts are spread over themes; nan if all are zero."""
    total = int(counts_T.sum())
    share_T = counts_T / total if total else np.full(len(counts_T), math.nan)
    used_T = share_T[share_T > 0]
    even = math.log(len(counts_T))
    return {
        "total": total,
        "num_empty": int((counts_T == 0).sum()) if total else 0,
        "largest": int(counts_T.max(initial=0)),
        "largest_share": float(share_T.max(initial=0.0)),
        "entropy": (float(-(used_T * np.log(used_T)).sum() / even) if even else 1.0) if total else math.nan,
    }


def collapse_warnings(use: Mapping[str, Any]) -> list[str]:
    """A warning if themes are empty, or one of them is crowded; [] otherwise."""
    findings, num_themes = [], use["num_themes"]
    for what in ("items", "events"):
        counts = use[f"by_{what}"]
        if counts["num_empty"]:
            findings.append(f"{counts['num_empty']} of {num_themes} themes hold no {what}")
        if num_themes > 1 and counts["largest_share"] >= max(CROWDED_SHARE, CROWDED_TIMES / num_themes):
            findings.append(
                f"one theme holds {counts['largest']:,} of {counts['total']:,} {what} ({counts['largest_share']:.0%}; "
                f"an even share is {1 / num_themes:.0%})"
            )
    if not findings:
        return []
    return [
        f"Themes have collapsed: {'; '.join(findings)}. Explanations by theme are coarser than model.num_themes: try a "
        "smaller model.num_themes, more train.router_steps or a larger train.mutual_information"
    ]
