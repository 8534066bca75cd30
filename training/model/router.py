"""Items and sessions -> themes: soft routing over T prototypes.

Shapes: U users, L history length, T themes, R router width, F code width. A `*` stands for any leading dimensions.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from contracts.schema import UNKNOWN_INDEX
from training.model.batch import History
from training.model.embeddings import ItemEmbedding, ItemRows

ROUTER_STD = 0.2
CODE_STD = 0.5  # of the map of codes: codes are shorter than 1, and should weigh as much as a row
ROWS_OF_BLOCK = 64
"""A multiple of the numbers in a register of any processor."""
NORM_FLOOR = 1e-4  # keeps the direction of a zero vector, and its gradient, finite


class Router(nn.Module):
    """p = softmax(cos(r, P_k) / temperature) with r = R_item + R_category + W f, tables of its own unless tied.

    f: the item's co-click code as of the request (features/encoding/item_codes.py), which untrained items have too. An
    item with nothing known has no theme, neither as an event nor as a candidate: its r and p are 0.
    tied: the click model's item embedding is r; this module holds the prototypes only.
    random: a control whose random routing is never trained; categories are not read.
    """

    def __init__(
        self,
        num_items: int,
        num_categories: int,
        width: int,
        num_themes: int,
        temperature: float,
        *,
        kind: str,
        route: str,
        code_width: int = 0,
    ) -> None:
        super().__init__()
        self.kind, self.route, self.temperature = kind, route, temperature
        if kind != "tied":
            self.item = ItemEmbedding(num_items, num_categories, width, ROUTER_STD)
        self.of_code = nn.Linear(code_width, width, bias=False) if code_width and kind != "random" else None
        if self.of_code is not None:
            nn.init.normal_(self.of_code.weight, std=CODE_STD)
        self.prototype_TR = nn.Parameter(torch.randn(num_themes, width))
        if route == "blend":
            self.blend = nn.Parameter(torch.zeros(()))
        if kind == "random":
            nn.init.zeros_(self.item.category.weight)
            nn.init.normal_(self.item.item.weight, std=ROUTER_STD)
            self.requires_grad_(False)

    def reset_parameters(self) -> None:
        """Initialise all weights that L_MI trains, for another start. A tied router has only its prototypes."""
        if self.kind != "tied":
            self.item.reset_parameters()
        if self.of_code is not None:
            nn.init.normal_(self.of_code.weight, std=CODE_STD)
        nn.init.normal_(self.prototype_TR)

    def codes(self, rows: ItemRows, click: Float[Tensor, "*shape width"]) -> Float[Tensor, "*shape router"]:
        """The vectors by which items are routed; exactly 0 if nothing is known of an item.

        click: the click model's embedding of the same items, read only when tied.
        """
        if self.kind == "random":
            return self.item.item(rows.index) * (rows.index > UNKNOWN_INDEX).unsqueeze(-1)
        known = click if self.kind == "tied" else self.item(rows)
        if self.of_code is not None and rows.code is not None:
            known = known + self.of_code(rows.code)
        return known * rows.is_told.unsqueeze(-1)

    def assign(self, code: Float[Tensor, "*shape router"]) -> Float[Tensor, "*shape themes"]:
        """Routing by codes; rows sum to 1, or are 0 where the code is 0."""
        cosine = direction(code) @ direction(self.prototype_TR).T
        logit = cosine / self.temperature
        share = softmax_of_rows(logit) if logit.dim() == 2 else torch.softmax(logit, dim=-1)
        return share * (code != 0).any(-1, keepdim=True)

    def history(
        self,
        alone_ULT: Float[Tensor, "users length themes"],
        code_ULR: Float[Tensor, "users length router"],
        history: History,
    ) -> Float[Tensor, "users length themes"]:
        """Routing of a history's events as `route` says: by the item alone (alone_ULT), its session, or both.

        With sessions, an event gets the theme of its session even if nothing is known of its own item.
        """
        if self.route == "item":
            return alone_ULT
        session_ULR = session_mean(code_ULR, history.session_UL, history.mask_UL)
        if self.route == "session":
            return self.assign(session_ULR)
        share = torch.sigmoid(self.blend)
        return self.assign(share * session_ULR + (1 - share) * code_ULR)


def softmax_of_rows(logit_NT: Float[Tensor, "items themes"]) -> Float[Tensor, "items themes"]:
    """Softmax of each row, for many rows of few columns.

    Over the other axis PyTorch computes many rows at a time, which takes a tenth of the time on a CPU. There rows that
    fill no whole block are computed by other instructions, so they are padded: a row's result is the same to the bit,
    however many there are.
    """
    padding = -len(logit_NT) % ROWS_OF_BLOCK
    return torch.softmax(functional.pad(logit_NT.T, (0, padding)), dim=0)[:, : len(logit_NT)].T.contiguous()


def direction(vector: Float[Tensor, "*shape width"]) -> Float[Tensor, "*shape width"]:
    """Scaled to length 1; a zero vector stays zero."""
    return vector * torch.rsqrt(vector.square().sum(-1, keepdim=True) + NORM_FLOOR)


def session_mean(
    code_ULR: Float[Tensor, "users length width"],
    session_UL: Int[Tensor, "users length"],
    mask_UL: Tensor,
) -> Float[Tensor, "users length width"]:
    """For each event the mean code of its session within the history; sessions are runs of equal numbers."""
    starts_UL = torch.ones_like(session_UL)
    starts_UL[:, 1:] = (session_UL[:, 1:] != session_UL[:, :-1]) | (mask_UL[:, 1:] != mask_UL[:, :-1])
    segment_UL = starts_UL.cumsum(1) - 1
    slot_ULR = segment_UL.unsqueeze(-1).expand_as(code_ULR)
    sums = torch.zeros_like(code_ULR).scatter_add(1, slot_ULR, code_ULR)
    sizes = torch.zeros_like(code_ULR[..., 0]).scatter_add(1, segment_UL, torch.ones_like(code_ULR[..., 0]))
    return (sums / sizes.clamp(min=1).unsqueeze(-1)).gather(1, slot_ULR)
