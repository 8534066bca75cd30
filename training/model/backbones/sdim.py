"""SDIM: a candidate reads the events whose hashes collide with its own.

Shapes: Q queries, C events, D width, G hashes, E = D + G. Source: Cao et al. 2022, arXiv 2205.10249: a hash is the
signs of a few random projections; the events of a bucket are summed and the sum is scaled to length 1; a candidate
reads the mean over its buckets. The projections are random and never trained.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from training.model.backbones.backbone import Backbone

NUM_HASHES = 24
NUM_SIGNS = 3  # per hash: 2 ** 3 buckets


class SdimAttention(Backbone):
    """Events are their tokens and their buckets."""

    projection_DP: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("projection_DP", torch.randn(width, NUM_HASHES * NUM_SIGNS))

    def events(
        self,
        token_ULD: Float[Tensor, "users length width"],
        context_UL: Int[Tensor, "users length"],
        mask_UL: Bool[Tensor, "users length"],
        theme_UL: Int[Tensor, "users length"] | None = None,
    ) -> Float[Tensor, "users length event"]:
        """[token; the bucket of each hash]."""
        return torch.cat([token_ULD, self._buckets(token_ULD)], dim=-1)

    def read(
        self,
        query_QD: Float[Tensor, "queries width"],
        event_QCE: Float[Tensor, "queries events event"],
        weight_QC: Float[Tensor, "queries events"] | None,
        mask_QC: Bool[Tensor, "queries events"],
    ) -> Float[Tensor, "queries width"]:
        """Mean over the hashes of the normalised sum of the candidate's bucket."""
        token_QCD, bucket_QCG = event_QCE.split([query_QD.shape[1], NUM_HASHES], dim=2)
        collides_QCG = (bucket_QCG == self._buckets(query_QD).unsqueeze(1)) & mask_QC.unsqueeze(-1)
        share_QCG = collides_QCG.to(token_QCD.dtype)
        if weight_QC is not None:
            share_QCG = share_QCG * weight_QC.unsqueeze(-1)
        return functional.normalize(share_QCG.transpose(1, 2) @ token_QCD, dim=-1).mean(1)

    def _buckets(self, vector: Float[Tensor, "*shape width"]) -> Float[Tensor, "*shape hashes"]:
        """Bucket numbers in [0, 2 ** NUM_SIGNS), as floats, to be concatenated with the token."""
        signs = (vector.detach() @ self.projection_DP > 0).unflatten(-1, (NUM_HASHES, NUM_SIGNS))
        return sum(signs[..., place].to(vector.dtype) * 2**place for place in range(NUM_SIGNS))  # type: ignore[return-value]
