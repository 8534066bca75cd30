"""Indices -> vectors: items with their categories, and contexts of events (label, rank, age).

Shapes: U users, L history length, D width, N items (padding and unknown included), G categories of an item, K contexts:
one per combination of label, rank bucket and age bucket. A `*` stands for any leading dimensions.
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from contracts.schema import UNKNOWN_INDEX
from training.model.batch import History


class ItemRows(NamedTuple):
    """The rows of an item's embeddings in the tables."""

    index: Int[Tensor, "*shape"]  # item_index
    row: Int[Tensor, "*shape"]
    category: Int[Tensor, "*shape categories"]
    code: Float[Tensor, "*shape code"] | None = None  # co-click code as of a request; None: not known, or not used

    @property
    def is_told(self) -> Bool[Tensor, "*shape"]:
        """Whether anything is known of the item: a row of its own, a category or a code."""
        told = (self.row > UNKNOWN_INDEX) | (self.category > 0).any(-1)
        return told if self.code is None else told | (self.code != 0).any(-1)


class Catalogue(nn.Module):
    """item_index -> rows of the embedding tables.

    Items with too few train events share the unknown row, so that no score depends on an untrained row. Both maps are
    buffers, saved with the weights.
    """

    row_of_N: Tensor
    category_NG: Tensor

    def __init__(self, num_items: int, max_categories: int) -> None:
        super().__init__()
        self.register_buffer("row_of_N", torch.full((num_items,), UNKNOWN_INDEX))
        self.register_buffer("category_NG", torch.zeros(num_items, max_categories, dtype=torch.int64))

    def forward(self, item_index: Int[Tensor, "*shape"], code: Float[Tensor, "*shape code"] | None = None) -> ItemRows:
        """Rows of any items; every index must be below N."""
        return ItemRows(item_index, self.row_of_N[item_index], self.category_NG[item_index], code)


class ItemEmbedding(nn.Module):
    """E_item + the mean of its E_category. The rows of padding, unknown and absent categories start at zero."""

    def __init__(self, num_items: int, num_categories: int, width: int, std: float) -> None:
        super().__init__()
        self.std = std
        self.item = embedding(num_items, width, std, num_blank=UNKNOWN_INDEX + 1)
        self.category = embedding(num_categories, width, std, num_blank=1)

    def reset_parameters(self) -> None:
        """Initialise both tables again."""
        redraw(self.item, self.std, num_blank=UNKNOWN_INDEX + 1)
        redraw(self.category, self.std, num_blank=1)

    def forward(self, rows: ItemRows) -> Float[Tensor, "*shape width"]:
        """The vectors of the items at these rows."""
        num_categories = (rows.category > 0).sum(-1, keepdim=True).clamp(min=1)
        return self.item(rows.row) + self.category(rows.category).sum(-2) / num_categories


class ContextEmbedding(nn.Module):
    """The embedding of an event's label + rank from the end + age at the request, one table each."""

    def __init__(self, num_labels: int, num_rank_buckets: int, num_age_buckets: int, width: int, std: float) -> None:
        super().__init__()
        self.label = embedding(num_labels, width, std)
        self.rank = embedding(num_rank_buckets, width, std)
        self.age = embedding(num_age_buckets, width, std)

    def table(self) -> Float[Tensor, "contexts width"]:
        """The sum for every combination: a few hundred rows, so that an event needs one lookup and not three."""
        label, rank, age = self.label.weight, self.rank.weight, self.age.weight
        return (label[:, None, None] + rank[None, :, None] + age[None, None]).flatten(0, 2)

    def rows(self, history: History) -> Int[Tensor, "users length"]:
        """Each event's row in the table."""
        num_ranks, num_ages = self.rank.num_embeddings, self.age.num_embeddings
        return (history.label_UL * num_ranks + history.rank_bucket_UL) * num_ages + history.age_bucket_UL


def embedding(num_rows: int, width: int, std: float, num_blank: int = 0) -> nn.Embedding:
    """A table initialised from N(0, std), its first num_blank rows zero. Row 0 is padding if rows are blank."""
    table = nn.Embedding(num_rows, width, padding_idx=0 if num_blank else None)
    redraw(table, std, num_blank)
    return table


def redraw(table: nn.Embedding, std: float, num_blank: int = 0) -> None:
    """Initialise a table again, in place."""
    nn.init.normal_(table.weight, std=std)
    with torch.no_grad():
        table.weight[:num_blank] = 0.0
