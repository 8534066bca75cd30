"""A model and its catalogue -> a name for every theme: the categories that are most typical of its items."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from serving.bundle.scorer import Scorer

NUM_NAMING_CATEGORIES = 2


def name_themes(scorer: Scorer, vocabulary: pa.Table, code_NF: npt.NDArray[np.float32]) -> list[dict[str, Any]]:
    """One entry per theme: `theme`, `name`, `categories`, `num_items`; [] for a model without themes.

    vocabulary: contracts.schema.VOCABULARY. code_NF: co-click codes of its items; width 0 without. An item belongs to
    its top theme, or to none if nothing is known of it. Category c has weight p(c | theme) log(p(c | theme) / p(c)).
    """
    num_themes = scorer.theme_NT.shape[1]
    if not num_themes:
        return []
    index_N = vocabulary["item_index"].to_numpy()
    routing_NT = scorer.themes(index_N.astype(np.int64), code_NF)
    theme_N, placed_N = routing_NT.argmax(axis=1), routing_NT.max(axis=1) > 0
    categories = vocabulary["categories"].to_pylist()
    pairs = [
        (int(theme), name)
        for theme, placed, names in zip(theme_N, placed_N, categories, strict=True)
        if placed
        for name in names
    ]
    known = {name: number for number, name in enumerate(sorted({name for _, name in pairs}))}
    counts_TC = np.zeros((num_themes, len(known)))
    for theme, name in pairs:
        counts_TC[theme, known[name]] += 1
    sizes_T = np.bincount(theme_N[placed_N], minlength=len(counts_TC))
    return [_describe(theme, counts_TC, list(known), int(size)) for theme, size in enumerate(sizes_T)]


def _describe(theme: int, counts_TC: np.ndarray, names: list[str], num_items: int) -> dict[str, Any]:
    share_C = counts_TC[theme] / max(counts_TC[theme].sum(), 1)
    overall_C = counts_TC.sum(0) / max(counts_TC.sum(), 1)
    present = share_C > 0
    weight_C = np.zeros(len(names))
    weight_C[present] = share_C[present] * np.log(share_C[present] / overall_C[present])
    best = [row for row in np.argsort(-weight_C, kind="stable")[:NUM_NAMING_CATEGORIES] if weight_C[row] > 0]
    categories = [names[row] for row in best]
    return {
        "theme": theme,
        "name": ", ".join(categories) or f"theme {theme}",
        "categories": categories,
        "num_items": num_items,
    }
