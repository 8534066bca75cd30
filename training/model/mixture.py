"""Mixture of Sequence: a long history is routed into themes, and each candidate reads the theme it belongs to.

Shapes: B impressions (candidates), U users (requests), L history length, T themes, K chosen themes, C capacity per
theme, D width, H attention width, E = D + H + 1 (token, key, weight), N short length, S scalar features.
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional

from training.model.attention import TargetAttention
from training.model.batch import Candidates, History
from training.model.embeddings import Catalogue, ItemEmbedding, TokenEmbedding, embedding
from training.model.head import Head
from training.model.packing import pack
from training.model.params import ModelParams
from training.model.router import Router
from training.model.shape import ATTENTION_RATIO, EMBEDDING_STD, ModelShape

AGREEMENT_FLOOR = 1e-4


class MixtureState(NamedTuple):
    """The user's half of all scores of a request."""

    event_ULE: Float[Tensor, "users length event"]  # [token adapted to its theme; W_k token; routing weight]
    position_UTC: Int[Tensor, "users themes capacity"]  # subsequences: positions in [0, U * L)
    mask_UTC: Bool[Tensor, "users themes capacity"]
    short_UNE: Float[Tensor, "users short event"]  # [token; W_k token]
    short_mask_UN: Bool[Tensor, "users short"]
    mean_UD: Float[Tensor, "users width"]
    age_UD: Float[Tensor, "users width"]
    current_UT: Float[Tensor, "users themes"]  # where the user is: between the last event's routing and the mean
    usual_UT: Float[Tensor, "users themes"]  # the mean routing of the history
    theme_UL: Int[Tensor, "users length"]  # the theme each event was routed to; of no meaning where padded


class MixtureOfSequence(nn.Module):
    """Three experts: the candidate's theme, the latest events, the whole history. MODEL.md has the formulas."""

    def __init__(self, params: ModelParams, shape: ModelShape) -> None:
        super().__init__()
        self.params = params
        width, hidden, std = params.width, ATTENTION_RATIO * params.width, EMBEDDING_STD
        self.catalogue = Catalogue(shape.num_items, shape.max_categories)
        self.items = ItemEmbedding(shape.num_items, shape.num_categories, width, std)
        self.tokens = TokenEmbedding(shape.num_labels, shape.num_rank_buckets, shape.num_age_buckets, width, std)
        self.router = Router(
            shape.num_items,
            shape.num_categories,
            width if params.router == "tied" else params.router_width,
            params.num_themes,
            params.temperature,
            kind=params.router,
            route=params.route,
        )
        self.adapter_scale = nn.Parameter(torch.ones(params.num_themes, width))  # FiLM gamma and beta, a row a theme
        self.adapter_shift = nn.Parameter(torch.zeros(params.num_themes, width))
        self.theme_attention = TargetAttention(width, hidden, params.attention)
        self.short_attention = TargetAttention(width, hidden, params.attention)
        self.gate = nn.Embedding(shape.num_age_buckets, 1)
        nn.init.zeros_(self.gate.weight)
        self.last_age = embedding(shape.num_age_buckets, width, std)
        self.head = Head(8 * width + params.num_themes + 2, shape.num_scalars, params.hidden, params.dropout)

    def forward(self, history: History, candidates: Candidates) -> Float[Tensor, " impressions"]:
        """Both halves at once: the logits of all candidates."""
        return self.score(self.user_side(history), candidates)

    def user_side(self, history: History) -> MixtureState:
        """Everything that does not depend on a candidate."""
        state, _ = self.route_history(history)
        return state

    def route_history(self, history: History) -> tuple[MixtureState, Float[Tensor, "users length themes"]]:
        """The user's half, and the routing of each event by its item alone, which L_MI reads."""
        rows = self.catalogue(history.item_index_UL)
        item_ULD = self.items(rows)
        token_ULD = self.tokens(item_ULD, history)
        routing_ULT, alone_ULT = self.router.history(rows, item_ULD, history)
        weight_UL, theme_UL = routing_ULT.max(dim=-1)
        mask_UL, num_users, length = history.mask_UL, *history.mask_UL.shape

        adapter_ULF = functional.embedding(theme_UL, torch.cat([self.adapter_scale, self.adapter_shift], dim=1))
        scale_ULD, shift_ULD = adapter_ULF.chunk(2, dim=-1)
        adapted_ULD = token_ULD * scale_ULD + shift_ULD
        packed = pack(theme_UL, mask_UL, self.params.num_themes, min(self.params.theme_capacity, length))
        first_U = torch.arange(num_users, device=mask_UL.device) * length
        short_UND = token_ULD[:, -self.params.short_length :]
        last_UT, usual_UT = summarise_routing(routing_ULT, mask_UL)
        gate_U1 = torch.sigmoid(self.gate(history.last_age_bucket_U))
        state = MixtureState(
            event_ULE=torch.cat([adapted_ULD, self.theme_attention.keys(adapted_ULD), weight_UL.unsqueeze(-1)], dim=-1),
            position_UTC=packed.position_UTC + first_U.view(-1, 1, 1),
            mask_UTC=packed.mask_UTC,
            short_UNE=torch.cat([short_UND, self.short_attention.keys(short_UND)], dim=-1),
            short_mask_UN=mask_UL[:, -self.params.short_length :],
            mean_UD=token_ULD.sum(1) / mask_UL.sum(1, keepdim=True).clamp(min=1),
            age_UD=self.last_age(history.last_age_bucket_U),
            current_UT=gate_U1 * last_UT + (1 - gate_U1) * usual_UT,
            usual_UT=usual_UT,
            theme_UL=theme_UL,
        )
        return state, alone_ULT

    def score(self, state: MixtureState, candidates: Candidates) -> Float[Tensor, " impressions"]:
        """Logits of a click on each candidate."""
        user_B = candidates.user_of_B
        rows = self.catalogue(candidates.item_index_B)
        query_BD = self.items(rows)
        routing_BT = self.router(rows, query_BD)
        theme_BD = self._theme_expert(state, user_B, query_BD, routing_BT)
        short_BD = self._short_expert(state, user_B, query_BD)
        mean_BD = state.mean_UD.index_select(0, user_B)

        current_BT = state.current_UT.index_select(0, user_B) * routing_BT
        usual_BT = state.usual_UT.index_select(0, user_B) * routing_BT
        features = [query_BD, theme_BD, short_BD, mean_BD]
        features += [query_BD * theme_BD, query_BD * short_BD, query_BD * mean_BD, state.age_UD.index_select(0, user_B)]
        features += [current_BT.sum(1, keepdim=True), usual_BT.sum(1, keepdim=True)]
        features += [(current_BT + AGREEMENT_FLOOR).log()]
        return self.head(torch.cat(features, dim=1), candidates.scalars_BS)

    def themes(self, item_index: Int[Tensor, "*shape"]) -> Float[Tensor, "*shape themes"]:
        """How much each item belongs to each theme; rows sum to 1."""
        rows = self.catalogue(item_index)
        return self.router(rows, self.items(rows))

    def _theme_expert(self, state: MixtureState, user_B: Tensor, query_BD: Tensor, routing_BT: Tensor) -> Tensor:
        """The subsequences of the candidate's top themes, each weighed by how much the candidate belongs to it."""
        num_themes, capacity = state.position_UTC.shape[1:]
        weight_BK, theme_BK = routing_BT.topk(self.params.num_candidate_themes, dim=1)
        chosen_Q = (user_B.unsqueeze(1) * num_themes + theme_BK).flatten()  # Q = B * K queries
        position_QC = state.position_UTC.flatten(0, 1)[chosen_Q]
        mask_QC = state.mask_UTC.flatten(0, 1)[chosen_Q]
        event_QCE = state.event_ULE.flatten(0, 1).index_select(0, position_QC.flatten())
        event_QCE = event_QCE.view(-1, capacity, state.event_ULE.shape[-1])
        token_QCD, key_QCH, weight_QC1 = event_QCE.split(
            [query_BD.shape[1], event_QCE.shape[2] - query_BD.shape[1] - 1, 1], 2
        )
        query_QD = query_BD.repeat_interleave(self.params.num_candidate_themes, dim=0)
        read_QD = self.theme_attention(query_QD, token_QCD, key_QCH, weight_QC1.squeeze(2), mask_QC)
        read_BKD = read_QD.view(-1, self.params.num_candidate_themes, query_BD.shape[1])
        return (read_BKD * weight_BK.unsqueeze(-1)).sum(1)

    def _short_expert(self, state: MixtureState, user_B: Tensor, query_BD: Tensor) -> Tensor:
        event_BNE = state.short_UNE.index_select(0, user_B)
        token_BND, key_BNH = event_BNE.split([query_BD.shape[1], event_BNE.shape[2] - query_BD.shape[1]], 2)
        mask_BN = state.short_mask_UN[user_B]
        return self.short_attention(query_BD, token_BND, key_BNH, torch.ones_like(key_BNH[..., 0]), mask_BN)


def summarise_routing(
    routing_ULT: Float[Tensor, "users length themes"], mask_UL: Bool[Tensor, "users length"]
) -> tuple[Float[Tensor, "users themes"], Float[Tensor, "users themes"]]:
    """Routing of the newest event, and the mean over all events; uniform where the history is empty."""
    count_U1 = mask_UL.sum(1, keepdim=True)
    uniform = 1.0 / routing_ULT.shape[-1]
    mean_UT = (routing_ULT * mask_UL.unsqueeze(-1)).sum(1) / count_U1.clamp(min=1)
    empty_U1 = count_U1 == 0
    return torch.where(empty_U1, uniform, routing_ULT[:, -1]), torch.where(empty_U1, uniform, mean_UT)
