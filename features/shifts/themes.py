"""Items' categories, or else co-consumption of items, -> themes: the kinds of interest between which users may hop.

If there are more categories than themes, categories consumed by the same users are grouped into a theme; without
categories, items are grouped the same way. Grouping uses users, never sessions: shuffling events within a user does not
change the themes, so the shuffled baseline is fair. scikit-learn reduces (TruncatedSVD) and groups (KMeans).
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from contracts.schema import FIRST_INDEX
from features.tables.histories import UserHistories

Int64 = npt.NDArray[np.int64]

NO_THEME = -1
DIMENSIONS = 24
FROM_CATEGORIES, FROM_GROUPS, FROM_ITEMS, FROM_NOTHING = "categories", "grouped categories", "items", "nothing"
MIN_USERS = 2  # an item with fewer users is not grouped


@dataclass(frozen=True)
class Themes:
    """The themes of a log, and those of each item."""

    names: list[str]
    starts: Int64  # [I + 1] where each item's themes begin in `codes`
    codes: Int64  # themes, item by item, each once
    made_of: str  # FROM_...

    def first(self, num_events: Int64) -> Int64:
        """[I] one theme per item: of its themes the most frequent one over all events; NO_THEME if it has none.

        num_events: [I] of each item.
        """
        weight = np.bincount(self.codes, weights=np.repeat(num_events, np.diff(self.starts)), minlength=len(self.names))
        item = np.repeat(np.arange(len(self.starts) - 1), np.diff(self.starts))
        order = np.lexsort((self.codes, -weight[self.codes], item))
        best = np.full(len(self.starts) - 1, NO_THEME, np.int64)
        heads = order[np.flatnonzero(np.r_[True, np.diff(item[order]) > 0])] if len(order) else order
        best[item[heads]] = self.codes[heads]
        return best


def find_themes(histories: UserHistories, num_themes: int, seed: int) -> Themes:
    """The themes of a log: its categories, groups of them, or groups of items."""
    lists = histories.vocabulary["categories"].combine_chunks()
    encoded = lists.flatten().dictionary_encode()
    names = [str(name) for name in encoded.dictionary.to_pylist()]
    sizes = lists.value_lengths().to_numpy()
    item = np.asarray(histories.item_index).astype(np.int64) - FIRST_INDEX
    user = np.repeat(np.arange(len(histories.offsets) - 1), np.diff(histories.offsets))
    if not names:
        return _of_items(histories, item, user, num_themes, seed)
    order = np.argsort(np.array(names, object), kind="stable")
    codes = np.argsort(order)[encoded.indices.to_numpy()]
    names, starts = [names[place] for place in order], np.r_[0, np.cumsum(sizes)].astype(np.int64)
    if len(names) <= num_themes:
        return Themes(names, *_distinct(starts, codes), FROM_CATEGORIES)
    event, place = _spread(sizes[item], starts[item])
    counts = _matrix(codes[place], user[event], len(names), len(histories.offsets) - 1)
    group = _grouped(counts, num_themes, seed)
    told = _named(group, np.asarray(counts.sum(1)).ravel(), names)
    return Themes(told, *_distinct(starts, group[codes]), FROM_GROUPS)


def _of_items(histories: UserHistories, item: Int64, user: Int64, num_themes: int, seed: int) -> Themes:
    num_items = len(histories.vocabulary)
    counts = _matrix(item, user, num_items, len(histories.offsets) - 1)
    wide = np.flatnonzero(np.diff(counts.indptr) >= MIN_USERS)
    if len(wide) < 2 * num_themes:
        return Themes([], np.zeros(num_items + 1, np.int64), np.zeros(0, np.int64), FROM_NOTHING)
    group = _grouped(counts[wide], num_themes, seed)
    ids = histories.vocabulary["item_id"].to_pylist()
    names = _named(group, np.asarray(counts[wide].sum(1)).ravel(), [ids[place] for place in wide])
    has = np.zeros(num_items, np.int64)
    has[wide] = 1
    return Themes([f"around {name}" for name in names], np.r_[0, np.cumsum(has)], group, FROM_ITEMS)


def _matrix(row: Int64, column: Int64, num_rows: int, num_columns: int) -> Any:
    counts = sp.coo_matrix((np.ones(len(row)), (row, column)), shape=(num_rows, num_columns)).tocsr()
    counts.sum_duplicates()
    return counts


def _grouped(counts: Any, num_themes: int, seed: int) -> Int64:
    """[rows] the group of each row; rows with the same users are similar. 0 is the largest group."""
    from sklearn.cluster import KMeans
    from sklearn.decomposition import TruncatedSVD

    weighed = counts.astype(float)
    weighed.data = np.log1p(weighed.data)
    length = np.sqrt(np.asarray(weighed.multiply(weighed).sum(1)).ravel())
    weighed = sp.diags(1 / np.maximum(length, 1e-9)) @ weighed
    rank = min(DIMENSIONS, min(weighed.shape) - 1)
    near = TruncatedSVD(rank, random_state=seed).fit_transform(weighed)
    near /= np.maximum(np.linalg.norm(near, axis=1, keepdims=True), 1e-9)
    label = KMeans(num_themes, n_init=4, random_state=seed).fit_predict(near)  # pyright: ignore[reportArgumentType]
    size = np.bincount(label, weights=np.asarray(counts.sum(1)).ravel(), minlength=num_themes)
    return np.argsort(np.argsort(-size, kind="stable"), kind="stable")[label].astype(np.int64)


def _named(group: Int64, size: npt.NDArray[np.float64], names: list[str]) -> list[str]:
    """A group is called after its two largest members."""
    order = np.lexsort((-size, group))
    told = []
    for number in range(int(group.max()) + 1):
        members = order[group[order] == number]
        more = len(members) - 2
        told.append(" + ".join(names[place] for place in members[:2]) + (f" + {more}" if more > 0 else ""))
    return told


def _distinct(starts: Int64, codes: Int64) -> tuple[Int64, Int64]:
    """Each item's themes once."""
    item = np.repeat(np.arange(len(starts) - 1), np.diff(starts))
    width = int(codes.max()) + 1 if len(codes) else 1
    kept = np.unique(item * width + codes)
    return np.r_[0, np.cumsum(np.bincount(kept // width, minlength=len(starts) - 1))].astype(np.int64), kept % width


def _spread(sizes: Int64, starts: Int64) -> tuple[Int64, Int64]:
    """Events with several codes -> the event of each code, and the code's position among all codes."""
    within = np.arange(sizes.sum()) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return np.repeat(np.arange(len(sizes)), sizes), np.repeat(starts, sizes) + within


def session_themes(themes: Themes, item: Int64, num_events: Int64) -> Int64:
    """[S] the most frequent theme of a session's events, at a tie the first by name; NO_THEME if none has a theme.

    item: [E] of each event; num_events: [S], of consecutive sessions. An event with several themes counts for each.
    """
    session = np.repeat(np.arange(len(num_events)), num_events)
    sizes = np.diff(themes.starts)[item]
    event, place = _spread(sizes, themes.starts[:-1][item])
    width = max(len(themes.names), 1)
    pair, count = np.unique(session[event] * width + themes.codes[place], return_counts=True)
    of_session, of_theme = pair // width, pair % width
    best = np.lexsort((of_theme, -count, of_session))
    first = best[np.flatnonzero(np.r_[True, np.diff(of_session[best]) > 0])] if len(best) else best
    theme = np.full(len(num_events), NO_THEME, np.int64)
    theme[of_session[first]] = of_theme[first]
    return theme
