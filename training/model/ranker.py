"""The base of all models: items, contexts, scalars and a head, with a user side and a candidate side.

The user side is computed once per request, whatever the number of candidates; item tables once per batch, or once per
loaded bundle in a service. Shapes: B impressions (candidates), U users (requests), L history length, D width, N items
of the tables, T themes, K contexts.
"""

from abc import ABC, abstractmethod
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from contracts.schema import UNKNOWN_INDEX
from training.model.batch import Candidates, Codes, History
from training.model.embeddings import Catalogue, ContextEmbedding, ItemEmbedding, ItemRows, embedding
from training.model.head import Head
from training.model.params import ModelParams
from training.model.shape import EMBEDDING_STD, ModelShape


class Tables(NamedTuple):
    """Everything that depends on items alone. An item_index of History and Candidates is a row of these tables.

    All columns of an item are in one row, so that an event needs one lookup: Ranker.tables, MixtureOfSequence.tables.
    """

    item_NX: Float[Tensor, "items columns"]
    routing_NT: Float[Tensor, "items themes"]  # routing of each item; T is 0 for a model without themes
    context_KD: Float[Tensor, "contexts width"]


class Items(NamedTuple):
    """The items of the tables. With codes, a row is an item as of one request, so an item may have several rows."""

    index_N: Int[Tensor, " items"]
    code_NF: Float[Tensor, "items code"] | None


class Ranker(nn.Module, ABC):
    """The base of all models. Subclasses read histories; `has_router` says whether they route events to themes."""

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

    def forward(
        self, history: History, candidates: Candidates, codes: Codes | None = None
    ) -> Float[Tensor, " impressions"]:
        """User side and score in one call: the logits of all candidates. codes: used by routers only."""
        codes = codes if self.has_router else None
        history, candidates, items = distinct_items(history, candidates, len(self.catalogue.row_of_N), codes)
        tables = self.tables(items)
        return self.score(self.user_side(history, tables), candidates, tables)

    def learn(
        self, history: History, candidates: Candidates, codes: Codes | None = None
    ) -> tuple[Float[Tensor, " impressions"], Float[Tensor, ""]]:
        """The logits of all candidates, and L_MI, which is zero for a model without a router."""
        return self(history, candidates, codes), self.head.mean_S.new_zeros(())

    def tables(self, items: Items | None = None) -> Tables:
        """The tables of these items; None: of the whole catalogue."""
        vector_ND = self.items(self.rows(items))
        return Tables(vector_ND, vector_ND[:, :0], self.contexts.table())

    def rows(self, items: Items | None) -> ItemRows:
        """Embedding rows and codes of these items; None: of the whole catalogue, without codes."""
        if items is None:
            items = Items(torch.arange(len(self.catalogue.row_of_N), device=self.catalogue.row_of_N.device), None)
        return self.catalogue(items.index_N, items.code_NF)

    def tokens(
        self, item_ULD: Float[Tensor, "users length width"], history: History, tables: Tables
    ) -> Float[Tensor, "users length width"]:
        """x_i = item and category + label + rank from the end + age at the request; zero where padded."""
        token_ULD = item_ULD + nn.functional.embedding(self.contexts.rows(history), tables.context_KD)
        return token_ULD * history.mask_UL.unsqueeze(-1)

    @abstractmethod
    def user_side(self, history: History, tables: Tables) -> Any:
        """Everything that does not depend on a candidate: a NamedTuple of tensors whose first dimension is users."""

    @abstractmethod
    def score(self, state: Any, candidates: Candidates, tables: Tables) -> Float[Tensor, " impressions"]:
        """Logits of a click on each candidate."""


def distinct_items(
    history: History, candidates: Candidates, num_items: int, codes: Codes | None = None
) -> tuple[History, Candidates, Items | None]:
    """The batch with its items renumbered, and the distinct items; unchanged and None if the catalogue is smaller.

    So the cost of a step depends on the batch and not on the size of the catalogue. With codes, which are as of a
    request, the same item in two requests counts as two, and so do two unknown items: they share a number alone.
    """
    item_UL, item_B = history.item_index_UL, candidates.item_index_B
    if codes is None and num_items <= item_UL.numel() + item_B.numel():
        return history, candidates, None
    item_P = torch.cat([item_UL.flatten(), item_B])
    if codes is None:
        index_N, place = torch.unique(item_P, return_inverse=True)
        items = Items(index_N, None)
    else:
        user_UL = torch.arange(len(item_UL), device=item_UL.device).unsqueeze(1).expand_as(item_UL)
        user_P = torch.cat([user_UL.flatten(), candidates.user_of_B])
        apart_P = len(item_UL) + torch.arange(len(item_P), device=item_P.device)
        group_P = torch.where(item_P == UNKNOWN_INDEX, apart_P, user_P)
        both_N, place = torch.unique(group_P * num_items + item_P, return_inverse=True)
        code_PF = torch.cat([codes.event_ULF.flatten(0, 1), codes.candidate_BF])
        occurrence_N = both_N.new_empty(len(both_N)).scatter_(0, place, torch.arange(len(place), device=place.device))
        items = Items(both_N % num_items, code_PF[occurrence_N])
    place_UL, place_B = place.split([item_UL.numel(), item_B.numel()])
    return (
        history._replace(item_index_UL=place_UL.view_as(item_UL)),
        candidates._replace(item_index_B=place_B),
        items,
    )
