"""A fitted model -> what one request costs: floating point operations by formula, parameters, measured CPU time.

Shapes: L history length, M candidates, D width, H attention width, T themes, C capacity, A heads times their width.
Operations are those of matrix products, two a multiply-add, as torch's FlopCounterMode counts them: a test compares.
"""

import statistics
import time
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from training.model.build import Model
from training.model.params import ModelParams
from training.model.shape import ATTENTION_RATIO, ModelShape
from training.model.twin import NUM_FOUND, NUM_HEADS
from training.requests.batches import Batch, RequestDataset

NUM_TIMED = 30
NUM_WARM = 3


def flops_of_request(name: str, model: Model, params: ModelParams, shape: ModelShape, batch: Batch) -> int:
    """Operations of one request of this batch's size: by formula, or counted where a model has none yet.

    batch: one request, whose history stands in L slots however few events it has.
    """
    if name in FORMULAS:
        return FORMULAS[name](params, shape, batch.history.mask_UL.shape[1], len(batch.candidates.item_index_B))
    return count_flops(model, batch)


def count_flops(model: Model, batch: Batch) -> int:
    """What torch counts while the model scores a batch."""
    with torch.inference_mode(False), torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(batch.history, batch.candidates)
    return int(counter.get_total_flops())


def flops_of_din(params: ModelParams, shape: ModelShape, length: int, candidates: int) -> int:
    """Keys once a request, then every candidate over all of L."""
    width, hidden = params.width, ATTENTION_RATIO * params.width
    read = _attention(params.attention, candidates, length, width, hidden)
    return _linear(length, width, hidden) + read + _head(params, shape, candidates, 4 * width)


def flops_of_mos(params: ModelParams, shape: ModelShape, length: int, candidates: int) -> int:
    """Routing and keys once a request, then every candidate over C events of its themes and the newest few."""
    width, hidden, themes = params.width, ATTENTION_RATIO * params.width, params.num_themes
    code = width if params.router == "tied" else params.router_width
    short = min(params.short_length, length)
    routed = (length if params.route == "item" else 2 * length) + candidates
    user_side = _linear(length, width, hidden) + _linear(short, width, hidden)
    queries = candidates * params.num_candidate_themes
    read = _attention(params.attention, queries, min(params.theme_capacity, length), width, hidden)
    read += _attention(params.attention, candidates, short, width, hidden)
    return _linear(routed, code, themes) + user_side + read + _head(params, shape, candidates, 8 * width + themes + 2)


def flops_of_twin(params: ModelParams, shape: ModelShape, length: int, candidates: int) -> int:
    """Keys and values once a request; a candidate searches L and reads what it found."""
    width = params.width
    inner = NUM_HEADS * max(ATTENTION_RATIO * width // NUM_HEADS, 1)
    user_side = 2 * _linear(length, width, inner)
    search = _linear(candidates, width, inner) + 2 * candidates * length * inner
    read = 2 * candidates * min(NUM_FOUND, length) * inner + _linear(candidates, inner, width)
    return user_side + search + read + _head(params, shape, candidates, 4 * width)


FORMULAS: dict[str, Callable[[ModelParams, ModelShape, int, int], int]] = {
    "mos": flops_of_mos,
    "din": flops_of_din,
    "twin": flops_of_twin,
}


def cost_of(name: str, model: Model, params: ModelParams, shape: ModelShape, dataset: RequestDataset) -> dict[str, Any]:
    """{flops, parameters, candidates}: of a request with as many candidates as the test's usual one.

    flops is None where there is no request.
    """
    found: dict[str, Any] = {"parameters": sum(value.numel() for value in model.parameters()), "flops": None}
    found["candidates"] = None
    if len(dataset):
        sizes = torch.from_numpy(dataset.requests.row_starts).diff()
        usual = int(torch.argsort(sizes, stable=True)[len(sizes) // 2])
        batch = dataset.__getitems__([usual])
        found |= {"candidates": int(sizes[usual]), "flops": flops_of_request(name, model, params, shape, batch)}
    return found


def cpu_ms(model: Model, dataset: RequestDataset) -> float | None:
    """Median CPU time of scoring one request, its user side included and its encoding not; all threads together.

    Measured, so it is in the report alone: metrics/ and what is made of it stay the same bytes for the same input.
    """
    if not len(dataset):
        return None
    spread = torch.linspace(0, len(dataset) - 1, NUM_TIMED + NUM_WARM).long().tolist()
    taken = []
    with torch.inference_mode():
        for batch in [dataset.__getitems__([position]) for position in spread]:
            began = time.process_time()
            model(batch.history, batch.candidates)
            taken.append(1000 * (time.process_time() - began))
    return round(statistics.median(taken[NUM_WARM:]), 3)


def _attention(kind: str, queries: int, events: int, width: int, hidden: int) -> int:
    """TargetAttention of so many queries over so many events each, their keys given."""
    each = _linear(queries, width, hidden) + 2 * queries * events * width
    if kind == "din":
        return each + _linear(queries * events, width, hidden) + _linear(queries * events, hidden, 1)
    return each + 2 * queries * events * hidden


def _head(params: ModelParams, shape: ModelShape, candidates: int, num_features: int) -> int:
    widths = [num_features + shape.num_scalars, *params.hidden, 1]
    return sum(_linear(candidates, before, after) for before, after in pairwise(widths))


def _linear(rows: int, before: int, after: int) -> int:
    return 2 * rows * before * after
