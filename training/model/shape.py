"""The sizes of a model that depend on the data, and the constants that all models share."""

from dataclasses import dataclass

EMBEDDING_STD = 0.2  # with .05 a dot-product backbone lost 10 points of AUC
ATTENTION_RATIO = 2  # attention width over token width


@dataclass(frozen=True)
class ModelShape:
    """Sizes of tables and inputs. Counts include the blank rows: padding and unknown items, no category."""

    num_items: int
    num_categories: int
    max_categories: int  # per item
    num_labels: int
    num_rank_buckets: int
    num_age_buckets: int
    num_scalars: int
    code_width: int = 0  # F, of co-click codes; 0: the log has none

    @property
    def num_contexts(self) -> int:
        """Combinations of label, rank bucket and age bucket."""
        return self.num_labels * self.num_rank_buckets * self.num_age_buckets
