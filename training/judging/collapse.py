"""A model's routing, the catalogue and the events -> how unevenly themes are used, in figures and in words."""

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
"""The largest theme is crowded where it holds so much, and CROWDED_TIMES its even share too."""
CROWDED_TIMES = 3.0


def theme_use(
    model: Model, event_items: npt.NDArray[np.integer], code_NF: npt.NDArray[np.float32] | None = None
) -> dict[str, Any]:
    """{by_items, by_events}: each num_empty, largest, largest_share and entropy (1 is even, 0 is one theme).

    An item belongs to its top theme; items of which nothing is known belong to none.
    event_items: item_index of every event of the histories, counted by the theme of its item. code_NF: who read each
    item, as known at one time; None where the log has no codes.
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
    """How evenly themes hold what is counted; nan where there is nothing to count."""
    total = int(counts_T.sum())
    share_T = counts_T / total if total else np.full(len(counts_T), math.nan)
    held_T = share_T[share_T > 0]
    even = math.log(len(counts_T))
    return {
        "total": total,
        "num_empty": int((counts_T == 0).sum()) if total else 0,
        "largest": int(counts_T.max(initial=0)),
        "largest_share": float(share_T.max(initial=0.0)),
        "entropy": (float(-(held_T * np.log(held_T)).sum() / even) if even else 1.0) if total else math.nan,
    }


def collapse_warnings(use: Mapping[str, Any]) -> list[str]:
    """What a person should know of themes that hold nothing, or nearly everything."""
    said, num_themes = [], use["num_themes"]
    for what in ("items", "events"):
        counts = use[f"by_{what}"]
        if counts["num_empty"]:
            said.append(f"{counts['num_empty']} of {num_themes} themes hold no {what}")
        if num_themes > 1 and counts["largest_share"] >= max(CROWDED_SHARE, CROWDED_TIMES / num_themes):
            said.append(
                f"one theme holds {counts['largest']:,} of {counts['total']:,} {what} ({counts['largest_share']:.0%}; "
                f"an even share is {1 / num_themes:.0%})"
            )
    if not said:
        return []
    return [
        f"Themes have collapsed: {'; '.join(said)}. Explanations by theme say less than there are themes: try "
        "a smaller model.num_themes, more train.router_steps or a larger train.mutual_information"
    ]
