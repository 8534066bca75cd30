"""What the data decides of a model's size, and the constants that all models share."""

from dataclasses import dataclass

EMBEDDING_STD = 0.2  # .05 cost a dot-product backbone 10 points of AUC
ATTENTION_RATIO = 2  # attention width over token width


@dataclass(frozen=True)
class ModelShape:
    """Sizes of tables and inputs. Counts include the blank rows: padding and unknown items, the absent category."""

    num_items: int
    num_categories: int
    max_categories: int  # of one item
    num_labels: int
    num_rank_buckets: int
    num_age_buckets: int
    num_scalars: int
    code_width: int = 0  # F, of an item's code by its readers; 0: the log has none

    @property
    def num_contexts(self) -> int:
        """Combinations of label, rank bucket and age bucket."""
        return self.num_labels * self.num_rank_buckets * self.num_age_buckets
