"""Mixtures that route a candidate's features to expert networks: baselines of the Mixture of Sequence.

All read the history once with the backbone, like BackboneAlone, and mix NUM_EXPERTS heads. Shapes: B impressions, E
experts, F features, S scalar features, K chosen experts.
Sources: MMoE, Ma et al. 2018; GShard, Lepikhin et al. 2020, arXiv 2006.16668; DSelect-k, Hazimeh et al. 2021, arXiv
2106.03760; Expert Choice, Zhou et al. 2022, arXiv 2202.09368.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from training.model.alone import BackboneAlone, SequenceState
from training.model.batch import Candidates, Codes, History
from training.model.head import Head
from training.model.params import ModelParams
from training.model.ranker import Tables, distinct_items
from training.model.shape import ModelShape

NUM_EXPERTS = 4
NUM_CHOSEN = 2  # of GShard and DSelect-k; on average of Expert Choice
BALANCE = 0.03
"""Weight of GShard's load balance; times train.mutual_information (0.3) it is the paper's 0.01."""
NUM_BITS = 2  # 2 ** NUM_BITS = NUM_EXPERTS
SMOOTH_STEP_WIDTH = 1.0

KINDS = ("mmoe", "gshard", "dselect", "expert_choice")


class MixtureOfExperts(BackboneAlone):
    """Logit = the gated sum of the experts' logits."""

    def __init__(self, params: ModelParams, shape: ModelShape, kind: str) -> None:
        super().__init__(params, shape, params.backbone)
        self.name, self.kind = kind, kind
        num_inputs = 4 * params.width + shape.num_scalars
        more = (
            Head(4 * params.width, shape.num_scalars, params.hidden, params.dropout) for _ in range(NUM_EXPERTS - 1)
        )
        self.experts = nn.ModuleList(more)  # self.head is the first expert and holds the scalars' statistics
        if kind == "dselect":
            self.gate = nn.Linear(num_inputs, NUM_CHOSEN * (NUM_BITS + 1))
        else:
            self.gate = nn.Linear(num_inputs, NUM_EXPERTS, bias=False)

    def learn(
        self, history: History, candidates: Candidates, codes: Codes | None = None
    ) -> tuple[Float[Tensor, " impressions"], Float[Tensor, ""]]:
        """The logits, and GShard's load balance loss, which is zero for other kinds."""
        history, candidates, items = distinct_items(history, candidates, len(self.catalogue.row_of_N))
        tables = self.tables(items)
        state = self.user_side(history, tables)
        logits_B, gate_BE = self._mix(state, candidates, tables)
        if self.kind != "gshard":
            return logits_B, logits_B.new_zeros(())
        first_E = torch.nn.functional.one_hot(gate_BE.argmax(1), NUM_EXPERTS).to(gate_BE.dtype).mean(0)
        return logits_B, BALANCE * NUM_EXPERTS * (first_E * gate_BE.mean(0)).sum()

    def score(self, state: SequenceState, candidates: Candidates, tables: Tables) -> Float[Tensor, " impressions"]:
        """Click logit of each candidate. Expert Choice chooses among the candidates that are scored together."""
        logits_B, _ = self._mix(state, candidates, tables)
        return logits_B

    def _mix(self, state: SequenceState, candidates: Candidates, tables: Tables) -> tuple[Tensor, Tensor]:
        features_BF = self.features(state, candidates, tables)
        scalars_BS = self.head.standardise(candidates.scalars_BS)
        heads = [self.head, *(each for each in self.experts if isinstance(each, Head))]
        logits_BE = torch.stack([head.mix(features_BF, scalars_BS) for head in heads], dim=1)
        gate_BE = self._gate(torch.cat([features_BF, scalars_BS], dim=1))
        return (gate_BE * logits_BE).sum(1), gate_BE

    def _gate(self, inputs_BF: Tensor) -> Tensor:
        """[B, E] gate weights; rows sum to 1 except with Expert Choice."""
        if self.kind == "dselect":
            return _selected(self.gate(inputs_BF))
        share_BE = torch.softmax(self.gate(inputs_BF), dim=1)
        if self.kind == "gshard":
            kept_BK = share_BE.topk(NUM_CHOSEN, dim=1)
            share_BE = torch.zeros_like(share_BE).scatter(1, kept_BK.indices, kept_BK.values)
            return share_BE / share_BE.sum(1, keepdim=True)
        if self.kind == "expert_choice":
            capacity = max(NUM_CHOSEN * len(share_BE) // NUM_EXPERTS, 1)
            kept_CE = share_BE.topk(capacity, dim=0)
            return torch.zeros_like(share_BE).scatter(0, kept_CE.indices, kept_CE.values)
        return share_BE


def _selected(code_BG: Float[Tensor, "impressions gates"]) -> Float[Tensor, "impressions experts"]:
    """DSelect-k: each of k selectors encodes an expert's number in smooth bits; the selectors are weighted."""
    bits_BKN, weight_BK = code_BG.unflatten(1, (NUM_CHOSEN, NUM_BITS + 1)).split([NUM_BITS, 1], dim=2)
    x = (bits_BKN / SMOOTH_STEP_WIDTH).clamp(-0.5, 0.5)
    smooth_BKN = -2 * x**3 + 1.5 * x + 0.5
    numbers = torch.arange(2**NUM_BITS, device=code_BG.device)
    one_NE = (numbers.unsqueeze(0) >> torch.arange(NUM_BITS, device=code_BG.device).unsqueeze(1)) & 1
    chosen_BKE = torch.where(one_NE.bool(), smooth_BKN.unsqueeze(-1), 1 - smooth_BKN.unsqueeze(-1)).prod(2)
    return (torch.softmax(weight_BK, dim=1) * chosen_BKE).sum(1)
