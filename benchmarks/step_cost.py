"""Catalogues of 10 thousand to 10 million items -> the cost of a training step with each optimizer.

    nice -n 10 python -m benchmarks.step_cost [--small]

One thread; CPU seconds; the model, the batch and the loss of the stage train, optimizers as training/fitting makes
them, beside dense Adam unfused. Items are drawn evenly, the worst case, and by popularity (log-uniform: Zipf),
as in logs. Writes benchmarks/results/step_cost.json: every figure also as a ratio to the same optimizer at 10 thousand
items in the same run, since a busy machine changes both. Ten million items need 6 GB of memory with a dense optimizer.
"""

import argparse
import gc
import json
import math
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch.optim import Adam

from benchmarks.model_speed import SHAPE
from contracts.params import PARAMS, load_params
from contracts.publish import write_json
from training.fitting.losses import click_loss
from training.fitting.optimizers import choose_sparse, make_optimizer
from training.model.batch import Candidates, History
from training.model.build import build
from training.model.params import ModelParams

ROOT = Path(__file__).parents[1]
RESULT = ROOT / "benchmarks" / "results" / "step_cost.json"
SIZES = (10_000, 100_000, 1_000_000, 10_000_000)
RUNS = (("sparse", "even"), ("sparse", "popularity"), ("fused", "even"), ("dense", "even"))
NUM_USERS, EACH = 64, 5
BATCHES = 8
"""Different ones, so that a step finds the rows that it reads outside the cache, as in a real log."""


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="10 and 100 thousand items, no file: does it run?")
    small = parser.parse_args().small
    torch.set_num_threads(1)
    params = load_params(ROOT / PARAMS)["model"]
    sizes = (10_000, 100_000) if small else SIZES
    rows = []
    for kind, draw in RUNS:
        for size in sizes:
            rows.append(measure(params, kind, draw, size))
            first = next(each for each in rows if (each["optimizer"], each["draw"]) == (kind, draw))
            rows[-1]["ratio_to_smallest"] = round(rows[-1]["cpu_ms"] / first["cpu_ms"], 3)
            rows[-1]["ratio_of_least"] = round(rows[-1]["least_cpu_ms"] / first["least_cpu_ms"], 3)
            print(json.dumps(rows[-1]), flush=True)
            gc.collect()  # a catalogue of ten million items is gone before the next is made
    if not small:
        made = {"torch": torch.__version__, "threads": 1, "model": "mos", "requests_a_step": NUM_USERS, "steps": rows}
        write_json(RESULT, made)


def measure(params: ModelParams, kind: str, draw: str, num_items: int) -> dict[str, Any]:
    """CPU ms of a step: the median, and the least, of a few."""
    torch.manual_seed(0)
    model = build("mos", params, replace(SHAPE, num_items=num_items))
    model.catalogue.row_of_N.copy_(torch.arange(num_items))
    model.catalogue.category_NG.random_(1, SHAPE.num_categories)
    choose_sparse(model, "sparse" if kind == "sparse" else "dense")
    optimizer = Adam(model.parameters(), 5e-3, foreach=False) if kind == "dense" else make_optimizer(model, 5e-3)
    batches = [_batch(params.history_length, draw, num_items, seed) for seed in range(BATCHES)]

    def step(number: int) -> None:
        history, candidates, labels = batches[number % BATCHES]
        logits, mutual_information = model.learn(history, candidates)
        loss = click_loss(logits, labels) + 0.3 * mutual_information
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    is_slow = kind != "sparse" and num_items > 1_000_000
    times = _cpu_ms(step, repeats=3 if is_slow else 5 * BATCHES)
    rows = sum(weight.numel() for weight in model.parameters())
    return {
        "optimizer": kind,
        "draw": draw,
        "num_items": num_items,
        "num_parameters": rows,
        "cpu_ms": round(statistics.median(times), 2),
        "least_cpu_ms": round(min(times), 2),
    }


def _cpu_ms(step: Callable[[int], None], repeats: int) -> list[float]:
    for number in range(2):
        step(number)
    times = []
    for number in range(repeats):
        began = time.process_time()
        step(number)
        times.append(1e3 * (time.process_time() - began))
    return times


def _batch(length: int, how: str, num_items: int, seed: int) -> tuple[History, Candidates, torch.Tensor]:
    """Full histories in sessions of ten events, of items drawn from the whole catalogue."""
    draw = torch.Generator().manual_seed(seed)
    shape, number = (NUM_USERS, length), NUM_USERS * EACH
    history = History(
        item_index_UL=_items(shape, how, num_items, draw),
        label_UL=torch.ones(shape, dtype=torch.int64),
        rank_bucket_UL=torch.arange(length, 0, -1).log2().long().expand(shape),
        age_bucket_UL=torch.randint(0, SHAPE.num_age_buckets, shape, generator=draw),
        session_UL=(torch.arange(length) // 10).expand(shape),
        mask_UL=torch.ones(shape, dtype=torch.bool),
        last_age_bucket_U=torch.randint(0, SHAPE.num_age_buckets, (NUM_USERS,), generator=draw),
    )
    candidates = Candidates(
        _items((number,), how, num_items, draw),
        torch.arange(NUM_USERS).repeat_interleave(EACH),
        torch.randn(number, SHAPE.num_scalars, generator=draw),
    )
    return history, candidates, (torch.rand(number, generator=draw) < 0.3).float()


def _items(shape: tuple[int, ...], how: str, num_items: int, draw: torch.Generator) -> torch.Tensor:
    if how == "even":
        return torch.randint(2, num_items, shape, generator=draw)
    rank = torch.exp(torch.rand(shape, generator=draw, dtype=torch.float64) * math.log(num_items - 2)).long()
    return 2 + (rank * 7_919) % (num_items - 2)  # popular items lie anywhere in the tables


if __name__ == "__main__":
    main()
