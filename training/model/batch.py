"""The inputs of a model: encoded histories, one per request, and the candidates of all requests, flat.

Shapes: B impressions (candidates), U users (requests: one history each), L history length, S scalar features.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


class History(NamedTuple):
    """Encoded histories, right-aligned: slot L - 1 holds the newest event, padding is on the left."""

    item_index_UL: Int[Tensor, "users length"]
    label_UL: Int[Tensor, "users length"]
    rank_bucket_UL: Int[Tensor, "users length"]
    age_bucket_UL: Int[Tensor, "users length"]
    session_UL: Int[Tensor, "users length"]
    mask_UL: Bool[Tensor, "users length"]
    last_age_bucket_U: Int[Tensor, " users"]


class Candidates(NamedTuple):
    """The candidates of all requests in one flat list, each with the row of its request's history."""

    item_index_B: Int[Tensor, " impressions"]
    user_of_B: Int[Tensor, " impressions"]
    scalars_BS: Float[Tensor, "impressions scalars"]


class Codes(NamedTuple):
    """Co-click codes of a batch's items as of its requests (features/encoding/item_codes.py); 0 if nobody read them."""

    event_ULF: Float[Tensor, "users length code"]
    candidate_BF: Float[Tensor, "impressions code"]


def to_history(arrays: Mapping[str, np.ndarray]) -> History:
    """Arrays of features.encoding.encode -> tensors. The names there have no shape suffix."""
    kinds = {"mask": np.bool_}
    return History(
        *(
            torch.from_numpy(np.ascontiguousarray(arrays[name], dtype=kinds.get(name, np.int64)))
            for name in (field.rpartition("_")[0] for field in History._fields)
        )
    )


def to_candidates(item_index: np.ndarray, user_of: np.ndarray, scalars: np.ndarray) -> Candidates:
    """Flat candidate arrays -> tensors."""
    return Candidates(
        torch.from_numpy(np.ascontiguousarray(item_index, dtype=np.int64)),
        torch.from_numpy(np.ascontiguousarray(user_of, dtype=np.int64)),
        torch.from_numpy(np.ascontiguousarray(scalars, dtype=np.float32)),
    )
