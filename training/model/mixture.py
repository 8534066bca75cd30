"""Mixture of Sequence: a long history is routed into themes, and each candidate reads the theme it belongs to.

A wrapper over any backbone. Shapes: B impressions (candidates), U users (requests), L history length, T themes, K
chosen themes, C capacity per theme, D width, E event width of the backbone, N short length, R router width.
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional

from training.model.alone import BackboneAlone
from training.model.backbones.choose import make_backbone
from training.model.batch import Candidates, Codes, History
from training.model.information import mutual_information_loss
from training.model.packing import pack
from training.model.params import ModelParams
from training.model.ranker import Items, Ranker, Tables, distinct_items
from training.model.router import Router
from training.model.shape import ModelShape

AGREEMENT_FLOOR = 1e-4
OWN = ("theme", "short", "query * theme", "query * short", "match")
"""Features that BackboneAlone lacks; all others are the same, in the same order."""


class MixtureState(NamedTuple):
    """The user side of a request, shared by all its candidates."""

    event_ULE: Float[Tensor, "users length event"]  # for the theme expert; adapted when read if that reads tokens
    weight_UL: Float[Tensor, "users length"]  # routing probability of an event's theme
    position_UTC: Int[Tensor, "users themes capacity"]  # subsequences: positions in [0, U * L)
    mask_UTC: Bool[Tensor, "users themes capacity"]
    short_UNE: Float[Tensor, "users short event"]
    short_mask_UN: Bool[Tensor, "users short"]
    global_ULE: Float[Tensor, "users global event"]  # one slot, the mean; or all events as encoded by the backbone
    mask_UL: Bool[Tensor, "users length"]
    age_UD: Float[Tensor, "users width"]
    current_UT: Float[Tensor, "users themes"]  # current themes: a blend of the last event's routing and the mean
    usual_UT: Float[Tensor, "users themes"]  # the mean routing of the history
    theme_UL: Int[Tensor, "users length"]  # the theme each event was routed to; undefined for events without a theme


class ItemColumns(NamedTuple):
    """The columns of MixtureOfSequence.tables."""

    vector: Float[Tensor, "*shape width"]
    routing: Float[Tensor, "*shape themes"]  # by the item alone; rows sum to 1
    code: Float[Tensor, "*shape router"]  # R is 0 if events are routed by their items alone


class MixtureOfSequence(Ranker):
    """Three experts: the candidate's theme, the latest events, the whole history. See docs/model.md."""

    has_router = True

    def __init__(self, params: ModelParams, shape: ModelShape) -> None:
        super().__init__(params, shape, 8 * params.width + params.num_themes + 2)
        width = params.width
        self.router = Router(
            shape.num_items,
            shape.num_categories,
            width if params.router == "tied" else params.router_width,
            params.num_themes,
            params.temperature,
            kind=params.router,
            route=params.route,
            code_width=shape.code_width,
        )
        self.adapter_scale = nn.Parameter(torch.ones(params.num_themes, width))  # FiLM gamma, beta: a row per theme
        self.adapter_shift = nn.Parameter(torch.zeros(params.num_themes, width))
        self.theme_backbone = make_backbone(params.backbone, width, shape)
        self.short_backbone = make_backbone(params.backbone, width, shape)
        if params.global_expert == "backbone":
            self.global_backbone = make_backbone(params.backbone, width, shape)
            self.head.start_blind([place for part in OWN for place in feature_places(params)[part]])
        self.gate = nn.Embedding(shape.num_age_buckets, 1)
        nn.init.zeros_(self.gate.weight)

    def start_as(self, backbone: BackboneAlone) -> None:
        """Take over the weights of a trained backbone, so that the logits are its own.

        The experts read with what it learnt, and what BackboneAlone lacks counts for nothing until it is learnt.
        Only with global_expert: backbone.
        """
        taken = {name.replace("backbone.", "global_backbone.", 1): each for name, each in backbone.state_dict().items()}
        first, places = taken.pop("head.layers.0.weight"), feature_places(self.params)
        shared = [place for part, own in places.items() if part not in OWN for place in own]
        with torch.no_grad():
            weight = self.head.layers[0].weight
            weight.zero_()  # type: ignore[operator]
            weight[:, shared] = first[:, : len(shared)]  # type: ignore[index]
            weight[:, places["match"].stop :] = first[:, len(shared) :]  # type: ignore[index]
        self.load_state_dict(taken, strict=False)
        for each in (self.theme_backbone, self.short_backbone):
            each.load_state_dict(backbone.backbone.state_dict())

    def learn(
        self, history: History, candidates: Candidates, codes: Codes | None = None
    ) -> tuple[Float[Tensor, " impressions"], Float[Tensor, ""]]:
        """The logits of all candidates, and L_MI of the histories."""
        history, candidates, items = distinct_items(history, candidates, len(self.catalogue.row_of_N), codes)
        tables = self.tables(items)
        item = self._gather(history.item_index_UL, tables)
        logits_B = self.score(self._read(history, item, tables), candidates, tables)
        return logits_B, mutual_information_loss(item.routing, history)

    def tables(self, items: Items | None = None) -> Tables:
        """A row is [vector; routing; router code]; the code only if events are routed by sessions too."""
        rows = self.rows(items)
        vector_ND = self.items(rows)
        code_NR = self.router.codes(rows, vector_ND)
        routing_NT = self.router.assign(code_NR)
        columns = [vector_ND, routing_NT] if self.params.route == "item" else [vector_ND, routing_NT, code_NR]
        return Tables(torch.cat(columns, dim=1), routing_NT, self.contexts.table())

    def themes(
        self, item_index: Int[Tensor, "*shape"], code: Float[Tensor, "*shape code"] | None = None
    ) -> Float[Tensor, "*shape themes"]:
        """The routing of each item; rows sum to 1, or are 0 if nothing is known of the item.

        code: co-click codes; None if unknown.
        """
        rows = self.catalogue(item_index, code)
        return self.router.assign(self.router.codes(rows, self.items(rows)))

    def user_side(self, history: History, tables: Tables) -> MixtureState:
        """Everything that does not depend on a candidate."""
        return self._read(history, self._gather(history.item_index_UL, tables), tables)

    def _gather(self, item_index: Int[Tensor, "*shape"], tables: Tables) -> "ItemColumns":
        width, num_themes = self.params.width, self.params.num_themes
        row = functional.embedding(item_index, tables.item_NX)
        return ItemColumns(*row.split([width, num_themes, row.shape[-1] - width - num_themes], dim=-1))

    def _read(self, history: History, item: "ItemColumns", tables: Tables) -> MixtureState:
        mask_UL, context_UL = history.mask_UL, self.contexts.rows(history)
        token_ULD = self.tokens(item.vector, history, tables)
        routing_ULT = self.router.history(item.routing, item.code, history)
        weight_UL, theme_UL = routing_ULT.max(dim=-1)
        num_users, length = mask_UL.shape
        placed_UL = mask_UL & (weight_UL > 0)  # items with nothing known have no theme

        adapted_ULD = token_ULD if self.theme_backbone.reads_tokens else self._adapt(token_ULD, theme_UL)
        packed = pack(theme_UL, placed_UL, self.params.num_themes, min(self.params.theme_capacity, length))
        first_U = torch.arange(num_users, device=mask_UL.device) * length
        newest = slice(-self.params.short_length, None)
        last_UT, usual_UT = summarise_routing(routing_ULT, placed_UL)
        gate_U1 = torch.sigmoid(self.gate(history.last_age_bucket_U))
        return MixtureState(
            event_ULE=self.theme_backbone.events(adapted_ULD, context_UL, placed_UL, theme_UL),
            weight_UL=weight_UL,
            position_UTC=packed.position_UTC + first_U.view(-1, 1, 1),
            mask_UTC=packed.mask_UTC,
            short_UNE=self.short_backbone.events(token_ULD[:, newest], context_UL[:, newest], mask_UL[:, newest]),
            short_mask_UN=mask_UL[:, newest],
            global_ULE=self._global_events(token_ULD, context_UL, mask_UL),
            mask_UL=mask_UL,
            age_UD=self.last_age(history.last_age_bucket_U),
            current_UT=gate_U1 * last_UT + (1 - gate_U1) * usual_UT,
            usual_UT=usual_UT,
            theme_UL=theme_UL,
        )

    def score(self, state: MixtureState, candidates: Candidates, tables: Tables) -> Float[Tensor, " impressions"]:
        """Logits of a click on each candidate."""
        features_BF = self.features(state, candidates, tables)
        return self.head(features_BF, candidates.scalars_BS)

    def features(
        self, state: MixtureState, candidates: Candidates, tables: Tables
    ) -> Float[Tensor, "impressions features"]:
        """Inputs of the head, for each candidate: [q; h1; h2; h3; q*h1; q*h2; q*h3; age; match features]."""
        user_B = candidates.user_of_B
        query_BD, routing_BT, _ = self._gather(candidates.item_index_B, tables)
        theme_BD = self._theme_expert(state, user_B, query_BD, routing_BT)
        short_UNE, short_mask_UN = state.short_UNE, state.short_mask_UN
        short_BD = self.short_backbone.read(
            query_BD, short_UNE.index_select(0, user_B), None, short_mask_UN.index_select(0, user_B)
        )
        global_BD = self._global_expert(state, user_B, query_BD)
        current_BT = state.current_UT.index_select(0, user_B) * routing_BT
        usual_BT = state.usual_UT.index_select(0, user_B) * routing_BT
        features = [query_BD, theme_BD, short_BD, global_BD]
        features += [query_BD * theme_BD, query_BD * short_BD, query_BD * global_BD]
        features += [state.age_UD.index_select(0, user_B)]
        features += [current_BT.sum(1, keepdim=True), usual_BT.sum(1, keepdim=True)]
        features += [(current_BT + AGREEMENT_FLOOR).log()]
        return torch.cat(features, dim=1)

    def _theme_expert(self, state: MixtureState, user_B: Tensor, query_BD: Tensor, routing_BT: Tensor) -> Tensor:
        """Reads of the subsequences of the candidate's top themes, weighted by the candidate's routing."""
        num_chosen = self.params.num_candidate_themes
        num_themes, capacity = state.position_UTC.shape[1:]
        weight_BK, theme_BK = routing_BT.topk(num_chosen, dim=1)
        chosen_Q = (user_B.unsqueeze(1) * num_themes + theme_BK).flatten()  # Q = B * K queries
        position_R = state.position_UTC.flatten(0, 1).index_select(0, chosen_Q).flatten()  # R = Q * C
        mask_QC = state.mask_UTC.flatten(0, 1).index_select(0, chosen_Q)
        event_QCE = state.event_ULE.flatten(0, 1).index_select(0, position_R).unflatten(0, (-1, capacity))
        weight_QC = state.weight_UL.flatten().index_select(0, position_R).unflatten(0, (-1, capacity))
        if self.theme_backbone.reads_tokens:
            event_QCE = self._adapt(event_QCE, theme_BK.flatten().unsqueeze(1))
        query_QD = query_BD if num_chosen == 1 else query_BD.repeat_interleave(num_chosen, dim=0)
        read_QD = self.theme_backbone.read(query_QD, event_QCE, weight_QC, mask_QC)
        return (read_QD.unflatten(0, (-1, num_chosen)) * weight_BK.unsqueeze(-1)).sum(1)

    def _adapt(self, token: Tensor, theme: Tensor) -> Tensor:
        """Tokens as the experts of their themes read them: scaled and shifted by rows of the adapter."""
        return torch.addcmul(self.adapter_shift[theme], token, self.adapter_scale[theme])

    def _global_events(self, token_ULD: Tensor, context_UL: Tensor, mask_UL: Tensor) -> Tensor:
        if self.params.global_expert == "backbone":
            return self.global_backbone.events(token_ULD, context_UL, mask_UL)
        return token_ULD.sum(1, keepdim=True) / mask_UL.sum(1).clamp(min=1).view(-1, 1, 1)

    def _global_expert(self, state: MixtureState, user_B: Tensor, query_BD: Tensor) -> Tensor:
        event_BLE = state.global_ULE.index_select(0, user_B)
        if self.params.global_expert == "mean":
            return event_BLE.squeeze(1)
        return self.global_backbone.read(query_BD, event_BLE, None, state.mask_UL.index_select(0, user_B))


def feature_places(params: ModelParams) -> dict[str, range]:
    """Columns of each part of MixtureOfSequence.features."""
    width = params.width
    parts = ("query", "theme", "short", "global", "query * theme", "query * short", "query * global", "age")
    places = {part: range(number * width, (number + 1) * width) for number, part in enumerate(parts)}
    return places | {"match": range(8 * width, 8 * width + params.num_themes + 2)}


def summarise_routing(
    routing_ULT: Float[Tensor, "users length themes"], placed_UL: Bool[Tensor, "users length"]
) -> tuple[Float[Tensor, "users themes"], Float[Tensor, "users themes"]]:
    """Routing of the newest event with a theme, and the mean over all events with one; uniform if there are none."""
    count_U1 = placed_UL.sum(1, keepdim=True)
    uniform = 1.0 / routing_ULT.shape[-1]
    sum_UT = torch.bmm(placed_UL.to(routing_ULT.dtype).unsqueeze(1), routing_ULT).squeeze(1)
    newest_U = (placed_UL * torch.arange(1, placed_UL.shape[1] + 1, device=placed_UL.device)).argmax(1)
    last_UT = routing_ULT.gather(1, newest_U.view(-1, 1, 1).expand(-1, 1, routing_ULT.shape[-1])).squeeze(1)
    empty_U1 = count_U1 == 0
    return torch.where(empty_U1, uniform, last_UT), torch.where(empty_U1, uniform, sum_UT / count_U1.clamp(min=1))
