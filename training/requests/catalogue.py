"""The vocabulary and each item's number of train events -> rows and categories of the embedding tables."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

from contracts.schema import FIRST_INDEX, UNKNOWN_INDEX
from features.encoding.counters import Counters
from training.requests.reader import Events, Requests

MAX_CATEGORIES = 16  # per item; the most frequent ones


@dataclass(frozen=True)
class Vocabulary:
    """All items of the log, and pairs (item, category) in the order of the items."""

    item_ids: list[str]
    pair_item: npt.NDArray[np.int64]  # [P] item_index
    pair_category: npt.NDArray[np.int64]  # [P] rank of the category's name, from 0
    categories: list[str]  # names, sorted

    @property
    def num_items(self) -> int:
        """Number of items, plus the two special indices (padding, unknown)."""
        return FIRST_INDEX + len(self.item_ids)


@dataclass(frozen=True)
class ItemTables:
    """The content of the model's catalogue."""

    row_of_item: npt.NDArray[np.int64]  # [N] its own row, or the unknown row
    item_categories: npt.NDArray[np.int64]  # [N, G]; 0 none
    num_categories: int  # 0 included
    num_cold_items: int


def load_vocabulary(data: Path) -> Vocabulary:
    """Read data/user_histories/vocabulary.parquet."""
    table = pq.read_table(data / "user_histories" / "vocabulary.parquet")
    lists = table["categories"].combine_chunks()
    names, ranks = np.unique(lists.flatten().to_numpy(zero_copy_only=False).astype(str), return_inverse=True)
    items = np.repeat(table["item_index"].to_numpy(), lists.value_lengths().fill_null(0).to_numpy())
    return Vocabulary(table["item_id"].to_pylist(), items.astype(np.int64), ranks.astype(np.int64), names.tolist())


def load_counters(data: Path, vocabulary: Vocabulary) -> Counters:
    """The three counter tables, keyed by vocabulary rank and user_index."""
    users = pq.read_table(data / "user_histories" / "users.parquet")["user_id"]
    return Counters.from_folder(data, vocabulary.item_ids, users)


def count_items(requests: Requests, events: Events, history_length: int, num_items: int) -> npt.NDArray[np.int64]:
    """[N] how often training sees each item: as a candidate, or in the latest L events of a request's history."""
    first, end = (int(requests.starts.min()), int(requests.ends.max())) if len(requests) else (0, 0)  # of their users
    covered = np.zeros(end - first + 1, np.int64)
    np.add.at(covered, np.maximum(requests.starts, requests.ends - history_length) - first, 1)
    np.add.at(covered, requests.ends - first, -1)
    seen = first + np.flatnonzero(np.cumsum(covered[:-1]) > 0)
    in_histories = np.bincount(events.item_index[seen], minlength=num_items)
    return in_histories + np.bincount(requests.item_index, minlength=num_items)


def fit_tables(
    vocabulary: Vocabulary, counts: npt.NDArray[np.int64], min_item_events: int, min_category_events: int
) -> ItemTables:
    """Rows of the embedding tables; items and categories below the minimum have no row of their own.

    Two minimums, since in a log whose items live for a day, categories are worth learning and item ids are not.
    """
    known = counts >= min_item_events
    row_of_item = np.where(known, np.arange(vocabulary.num_items), UNKNOWN_INDEX)
    row_of_item[:FIRST_INDEX] = np.arange(FIRST_INDEX)
    weight = np.bincount(vocabulary.pair_category, counts[vocabulary.pair_item], minlength=len(vocabulary.categories))
    kept = np.flatnonzero(weight >= min_category_events)
    rank = np.zeros(len(vocabulary.categories), np.int64)
    rank[kept] = 1 + np.arange(len(kept))
    return ItemTables(
        row_of_item=row_of_item,
        item_categories=_widen(vocabulary, rank, weight),
        num_categories=1 + len(kept),
        num_cold_items=int((~known[FIRST_INDEX:]).sum()),
    )


def _widen(vocabulary: Vocabulary, rank: npt.NDArray[np.int64], weight: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """Pairs -> [N, G], an item's most frequent categories first; repeated pairs count once."""
    pairs = np.unique(np.stack([vocabulary.pair_item, vocabulary.pair_category]), axis=1)
    items, categories = pairs[:, rank[pairs[1]] > 0] if pairs.size else pairs
    order = np.lexsort((categories, -weight[categories], items))
    items, categories = items[order], categories[order]
    slot = np.arange(len(items)) - np.searchsorted(items, items, side="left")
    keep = slot < MAX_CATEGORIES
    table = np.zeros((vocabulary.num_items, max(int(slot[keep].max(initial=0)) + 1, 1)), np.int64)
    table[items[keep], slot[keep]] = rank[categories[keep]]
    return table
