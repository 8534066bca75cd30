"""Gap-chunk attention after SparseCTR: like a mixture of sequences, but with time gaps in place of learnt themes.

A history is cut at its time gaps; a candidate attends to all events, to the chunks, and to the newest chunk. Source:
SparseCTR, arXiv 2601.17836. Differences: chunks are sessions (a fixed gap) in place of the user's P largest gaps, the
oldest sessions share a chunk, and time is part of the token. Shapes: B impressions, U users, L history length, D
width, P chunks.
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from training.model.backbones.choose import make_backbone
from training.model.batch import Candidates, History
from training.model.params import ModelParams
from training.model.ranker import Ranker, Tables
from training.model.shape import ModelShape

NUM_CHUNKS = 16  # P


class ChunkState(NamedTuple):
    """The user side of a request, shared by all its candidates."""

    event_ULE: Float[Tensor, "users length event"]
    mask_UL: Bool[Tensor, "users length"]
    chunk_UPF: Float[Tensor, "users chunks chunk"]
    chunk_mask_UP: Bool[Tensor, "users chunks"]
    local_UNG: Float[Tensor, "users local event2"]
    local_mask_UN: Bool[Tensor, "users local"]
    age_UD: Float[Tensor, "users width"]


class GapChunks(Ranker):
    """Three branches of one backbone: global, between chunks, local."""

    def __init__(self, params: ModelParams, shape: ModelShape) -> None:
        super().__init__(params, shape, 8 * params.width)
        self.whole, self.between, self.local = (make_backbone(params.backbone, params.width, shape) for _ in range(3))

    def user_side(self, history: History, tables: Tables) -> ChunkState:
        """Everything that does not depend on a candidate."""
        token_ULD = self.tokens(functional.embedding(history.item_index_UL, tables.item_NX), history, tables)
        mask_UL = history.mask_UL
        context_UL, newest = self.contexts.rows(history), slice(-self.params.short_length, None)
        place_UL = NUM_CHUNKS - 1 - history.session_UL.clamp(0, NUM_CHUNKS - 1)  # the newest chunk is last
        kept_UL = mask_UL.to(token_ULD.dtype)
        sums_UPD = token_ULD.new_zeros(len(mask_UL), NUM_CHUNKS, token_ULD.shape[2])
        sums_UPD = sums_UPD.scatter_add(1, place_UL.unsqueeze(-1).expand_as(token_ULD), token_ULD)
        sizes_UP = torch.zeros_like(sums_UPD[..., 0]).scatter_add(1, place_UL, kept_UL)
        chunk_mask_UP = sizes_UP > 0
        chunk_UPD = sums_UPD / sizes_UP.clamp(min=1).unsqueeze(-1)
        no_context_UP = torch.zeros_like(chunk_mask_UP, dtype=context_UL.dtype)
        local_mask_UN = mask_UL[:, newest] & (history.session_UL[:, newest] == 0)
        return ChunkState(
            event_ULE=self.whole.events(token_ULD, context_UL, mask_UL),
            mask_UL=mask_UL,
            chunk_UPF=self.between.events(chunk_UPD, no_context_UP, chunk_mask_UP),
            chunk_mask_UP=chunk_mask_UP,
            local_UNG=self.local.events(token_ULD[:, newest], context_UL[:, newest], local_mask_UN),
            local_mask_UN=local_mask_UN,
            age_UD=self.last_age(history.last_age_bucket_U),
        )

    def score(self, state: ChunkState, candidates: Candidates, tables: Tables) -> Float[Tensor, " impressions"]:
        """Logits of a click on each candidate."""
        user_B = candidates.user_of_B
        query_BD = functional.embedding(candidates.item_index_B, tables.item_NX)
        branches = (
            (self.whole, state.event_ULE, state.mask_UL),
            (self.between, state.chunk_UPF, state.chunk_mask_UP),
            (self.local, state.local_UNG, state.local_mask_UN),
        )
        reads = [backbone.read(query_BD, events[user_B], None, mask[user_B]) for backbone, events, mask in branches]
        products = [query_BD * read_BD for read_BD in reads]
        features = [query_BD, *reads, *products, state.age_UD.index_select(0, user_B)]
        return self.head(torch.cat(features, dim=1), candidates.scalars_BS)
