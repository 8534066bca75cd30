"""What every model of this project shares: items, contexts, scalars and a head, in two halves of a request.

The user's half is computed once a request, whatever the number of candidates; what depends on items alone is computed
once a batch, or once for as long as a service holds the weights. Shapes: B impressions (candidates), U users
(requests), L history length, D width, N items of the tables, T themes, K contexts.
"""

from abc import ABC, abstractmethod
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from training.model.batch import Candidates, History
from training.model.embeddings import Catalogue, ContextEmbedding, ItemEmbedding, embedding
from training.model.head import Head
from training.model.params import ModelParams
from training.model.shape import EMBEDDING_STD, ModelShape


class Tables(NamedTuple):
    """What depends on items alone. An item_index of History and Candidates is a row of these.

    All of an item stands in one row, so that an event gathers once: see Ranker.tables and MixtureOfSequence.tables.
    """

    item_NX: Float[Tensor, "items columns"]
    routing_NT: Float[
        Tensor, "items themes"
    ]  # how much an item belongs to each theme; T is 0 of a model without themes
    context_KD: Float[Tensor, "contexts width"]


class Ranker(nn.Module, ABC):
    """The base of all models. A subclass reads histories; `has_router` says whether it knows themes."""

    has_router = False

    def __init__(self, params: ModelParams, shape: ModelShape, num_features: int) -> None:
        super().__init__()
        self.params = params
        width, std = params.width, EMBEDDING_STD
        self.catalogue = Catalogue(shape.num_items, shape.max_categories)
        self.items = ItemEmbedding(shape.num_items, shape.num_categories, width, std)
        self.contexts = ContextEmbedding(shape.num_labels, shape.num_rank_buckets, shape.num_age_buckets, width, std)
        self.last_age = embedding(shape.num_age_buckets, width, std)
        self.head = Head(num_features, shape.num_scalars, params.hidden, params.dropout)

    def forward(self, history: History, candidates: Candidates) -> Float[Tensor, " impressions"]:
        """Both halves at once: the logits of all candidates."""
        history, candidates, items = distinct_items(history, candidates, len(self.catalogue.row_of_N))
        tables = self.tables(items)
        return self.score(self.user_side(history, tables), candidates, tables)

    def learn(
        self, history: History, candidates: Candidates
    ) -> tuple[Float[Tensor, " impressions"], Float[Tensor, ""]]:
        """The logits of all candidates, and L_MI: zero of a model without a router."""
        return self(history, candidates), self.head.mean_S.new_zeros(())

    def tables(self, items: Int[Tensor, " items"] | None = None) -> Tables:
        """What depends on items alone, of these items; None: of the whole catalogue."""
        if items is None:
            items = torch.arange(len(self.catalogue.row_of_N), device=self.catalogue.row_of_N.device)
        vector_ND = self.items(self.catalogue(items))
        return Tables(vector_ND, vector_ND[:, :0], self.contexts.table())

    def tokens(
        self, item_ULD: Float[Tensor, "users length width"], history: History, tables: Tables
    ) -> Float[Tensor, "users length width"]:
        """x_i = item and category + label + rank from the end + age at the request; zero where padded."""
        token_ULD = item_ULD + nn.functional.embedding(self.contexts.rows(history), tables.context_KD)
        return token_ULD * history.mask_UL.unsqueeze(-1)

    @abstractmethod
    def user_side(self, history: History, tables: Tables) -> Any:
        """Everything that does not depend on a candidate: a NamedTuple of tensors, the users first."""

    @abstractmethod
    def score(self, state: Any, candidates: Candidates, tables: Tables) -> Float[Tensor, " impressions"]:
        """Logits of a click on each candidate."""


def distinct_items(
    history: History, candidates: Candidates, num_items: int
) -> tuple[History, Candidates, Int[Tensor, " items"] | None]:
    """The batch with its items renumbered, and the items; unchanged, and None, where the catalogue is the smaller.

    So a step costs what its batch holds, however many items there are.
    """
    item_UL, item_B = history.item_index_UL, candidates.item_index_B
    if num_items <= item_UL.numel() + item_B.numel():
        return history, candidates, None
    items, place = torch.unique(torch.cat([item_UL.flatten(), item_B]), return_inverse=True)
    place_UL, place_B = place.split([item_UL.numel(), item_B.numel()])
    return (
        history._replace(item_index_UL=place_UL.view_as(item_UL)),
        candidates._replace(item_index_B=place_B),
        items,
    )
