"""A fitted model -> the cost of one request: floating point operations by formula, parameters, measured CPU time.

A request as the service answers it: item tables are computed once per loaded bundle and are not counted. Operations
are those of matrix products, two per multiply-add, as in torch's FlopCounterMode; a test compares the two. Shapes: L
history length, M candidates, Q queries, C events of a query's sequence, D width, H attention width, T themes.
"""

import statistics
import time
from itertools import pairwise
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from training.model.backbones import hstu, sasrec, sdim, stca, twin
from training.model.build import ALONE, MODELS, Model
from training.model.params import ModelParams
from training.model.peers.chunks import NUM_CHUNKS
from training.model.peers.experts import KINDS, NUM_BITS, NUM_CHOSEN, NUM_EXPERTS
from training.model.shape import ATTENTION_RATIO, ModelShape
from training.requests.batches import Batch, RequestDataset

NUM_TIMED = 30
NUM_WARM = 3


def flops_of_request(name: str, params: ModelParams, shape: ModelShape, length: int, candidates: int) -> int | None:
    """Operations of one request by formula; None for a model without a formula.

    length: slots of the history; padding costs as much as events.
    """
    width, backbone = params.width, params.backbone
    if name not in MODELS:
        return None
    if name == "mos":
        return _of_mixture(params, shape, length, candidates)
    if name == "gap_chunk":
        sequences = (length, NUM_CHUNKS, min(params.short_length, length))
        read = sum(_events(backbone, each, width) + _read(backbone, candidates, each, width) for each in sequences)
        return read + _head(params, shape, candidates, 8 * width)
    own = name if name in ALONE else backbone
    read = _events(own, length, width) + _read(own, candidates, length, width)
    head = _head(params, shape, candidates, 4 * width)
    if name not in KINDS:
        return read + head
    num_gates = NUM_CHOSEN * (NUM_BITS + 1) if name == "dselect" else NUM_EXPERTS
    return read + NUM_EXPERTS * head + _linear(candidates, 4 * width + shape.num_scalars, num_gates)


def count_flops(model: Model, batch: Batch) -> int:
    """Operations that torch counts while the model scores a batch."""
    with torch.no_grad():
        tables = model.tables()
        with FlopCounterMode(display=False, custom_mapping={torch.ops.aten.mv: _of_matrix_and_vector}) as counter:
            model.score(model.user_side(batch.history, tables), batch.candidates, tables)
    return int(counter.get_total_flops())


def _of_matrix_and_vector(matrix: torch.Size, vector: torch.Size, **_: Any) -> int:
    """The one kind of product that torch's counter ignores."""
    return 2 * matrix.numel()


def _of_mixture(params: ModelParams, shape: ModelShape, length: int, candidates: int) -> int:
    """Three reads of the backbone: C events per theme, the newest events, and the whole history or its mean."""
    width, backbone, themes = params.width, params.backbone, params.num_themes
    short = min(params.short_length, length)
    code = width if params.router == "tied" else params.router_width
    flops = 2 * length * themes + (0 if params.route == "item" else _linear(length, code, themes))
    flops += _events(backbone, length, width) + _events(backbone, short, width)
    queries, capacity = candidates * params.num_candidate_themes, min(params.theme_capacity, length)
    flops += _read(backbone, queries, capacity, width) + _read(backbone, candidates, short, width)
    if params.global_expert == "backbone":
        flops += _events(backbone, length, width) + _read(backbone, candidates, length, width)
    return flops + _head(params, shape, candidates, 8 * width + themes + 2)


def _events(backbone: str, length: int, width: int) -> int:
    """Backbone.events, which runs once per request."""
    hidden = ATTENTION_RATIO * width
    looks = 4 * length * length * width  # self-attention: query-key products and the weighted sum
    match backbone:
        case "twin":
            return 2 * _linear(length, width, _inner(hidden))
        case "sdim":
            return _linear(length, width, sdim.NUM_HASHES * sdim.NUM_SIGNS)
        case "sasrec":
            layers = _linear(length, width, 3 * width) + looks + _linear(length, width, width)
            return sasrec.NUM_LAYERS * (layers + 2 * _linear(length, width, 2 * width))
        case "hstu":
            layer = _linear(length, width, 4 * width) + looks + _linear(length, width, width)
            return hstu.NUM_LAYERS * layer + _linear(length, width, hidden)
        case "stca":
            return _linear(length, width, stca.NUM_LAYERS * hidden)
    return 0


def _read(backbone: str, queries: int, events: int, width: int) -> int:
    """Backbone.read, which runs once per candidate, or per theme of a candidate."""
    hidden, took = ATTENTION_RATIO * width, 2 * queries * events * width
    compared = _linear(queries, width, hidden) + 2 * queries * events * hidden
    match backbone:
        case "din":
            own = _linear(queries, width, hidden)
            return own + _linear(queries * events, width, hidden) + _linear(queries * events, hidden, 1) + took
        case "twin":
            inner, found = _inner(hidden), min(twin.NUM_FOUND, events)
            return 2 * _linear(queries, width, inner) + 2 * queries * (events + found) * inner
        case "sdim":
            return _linear(queries, width, sdim.NUM_HASHES * sdim.NUM_SIGNS) + sdim.NUM_HASHES * took
        case "hstu":
            return compared + took
        case "stca":
            return stca.NUM_LAYERS * (compared + took + 2 * _linear(queries, width, 2 * width))
    return 0  # sasrec reads its newest state


def _inner(hidden: int) -> int:
    return twin.NUM_HEADS * max(hidden // twin.NUM_HEADS, 1)


def cost_of(name: str, model: Model, params: ModelParams, shape: ModelShape, dataset: RequestDataset) -> dict[str, Any]:
    """{flops, parameters, candidates} for the test request with the median number of candidates.

    flops and candidates are None if there are no requests.
    """
    cost: dict[str, Any] = {"parameters": sum(value.numel() for value in model.parameters()), "flops": None}
    cost["candidates"] = None
    if len(dataset):
        sizes = torch.from_numpy(dataset.requests.row_starts).diff()
        usual = int(torch.argsort(sizes, stable=True)[len(sizes) // 2])
        batch = dataset.__getitems__([usual])
        num = int(sizes[usual])
        flops = flops_of_request(name, params, shape, batch.history.mask_UL.shape[1], num)
        cost |= {"candidates": num, "flops": count_flops(model, batch) if flops is None else flops}
    return cost


def cpu_ms(model: Model, dataset: RequestDataset) -> float | None:
    """Median CPU time of scoring one request, summed over threads: user side included, encoding excluded.

    Goes into the report only, so that metrics/ has the same bytes for the same input.
    """
    if not len(dataset):
        return None
    spread = torch.linspace(0, len(dataset) - 1, NUM_TIMED + NUM_WARM).long().tolist()
    taken = []
    with torch.inference_mode():
        tables = model.tables()
        for batch in [dataset.__getitems__([position]) for position in spread]:
            began = time.process_time()
            model.score(model.user_side(batch.history, tables), batch.candidates, tables)
            taken.append(1000 * (time.process_time() - began))
    return round(statistics.median(taken[NUM_WARM:]), 3)


def _head(params: ModelParams, shape: ModelShape, candidates: int, num_features: int) -> int:
    widths = [num_features + shape.num_scalars, *params.hidden, 1]
    return sum(_linear(candidates, before, after) for before, after in pairwise(widths))


def _linear(rows: int, before: int, after: int) -> int:
    return 2 * rows * before * after
