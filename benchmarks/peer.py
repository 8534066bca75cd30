"""Long histories -> training impressions per CPU second of our models and of FuxiCTR's DIN, on the same requests.

    python3 -m venv .peer && .peer/bin/pip install torch==2.13.0 fuxictr==2.3.10   # outside the lock
    python -m benchmarks.peer --python .peer/bin/python [--lengths 200 500 1000]

EB-NeRD's shape: 12 candidates a request, histories full. Ours reads requests through the stage's own loader; FuxiCTR's
reads the same requests flattened to a row an impression through LongCTR's loader (embeddings of 16 for item and
category, attention [64] ReLU, DNN [64, 32], Adam, 256 impressions a batch). One thread, whole steps, loaders included.
Each figure is from a process of its own, without and with a glibc that keeps freed memory, on both sides. Ours reads
more: labels, ranks, ages, sessions, 20 scalars. Writes benchmarks/results/peer.json.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from itertools import chain, repeat
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from benchmarks.model_speed import SHAPE
from contracts.params import PARAMS, load_params
from contracts.publish import write_json
from contracts.schema import FIRST_INDEX
from features.encoding.encode import FeatureSpec
from training.fitting.losses import click_loss
from training.fitting.optimizers import choose_sparse, clip_by_norm, make_optimizer
from training.model.build import build
from training.requests.batches import RequestDataset, shuffled
from training.requests.reader import Events, Requests

ROOT = Path(__file__).parents[1]
RESULT = ROOT / "benchmarks" / "results" / "peer.json"
MODELS = ("din", "twin", "mos")
NUM_ITEMS, NUM_CATEGORIES = 12_000, 32
NUM_USERS, NUM_REQUESTS, CANDIDATES, WIDTH = 400, 2_000, 12, 32
DAY_US = 86_400_000_000
ALLOCATORS = {
    "default": {},
    "keeps": {"GLIBC_TUNABLES": "glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=2147483647"},
}
"""What both sides' C library does with memory that a step frees: give large blocks back, or keep them."""


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", type=Path, help="an interpreter with fuxictr; none: ours alone, no file")
    parser.add_argument("--lengths", type=int, nargs="+", default=[200, 500, 1000])
    parser.add_argument("--models", nargs="+", default=list(MODELS))
    parser.add_argument("--seconds", type=float, default=10.0, help="of CPU, at least, for each figure")
    parser.add_argument("--one", nargs=2, metavar=("MODEL", "LENGTH"), help="one figure of ours, in this process")
    options = parser.parse_args()
    if options.one:
        name, length = options.one
        print(json.dumps({"impressions_per_cpu_s": ours(name, int(length), options.seconds)}))
        return
    rows = [row for length in options.lengths for row in measure(length, options)]
    if options.python:
        made = {"peer": "FuxiCTR 2.3.10, model_zoo.LongCTR.DIN", "torch": torch.__version__, "threads": 1,
                "candidates_a_request": CANDIDATES, "width": WIDTH, "rows": rows}  # fmt: skip
        write_json(RESULT, made)


def measure(length: int, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Each model of ours and the peer, by turns, under each allocator."""
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        if options.python:
            write_for_peer(folder, *log_of(length))
        for allocator, environment in ALLOCATORS.items():
            seconds = ["--seconds", str(options.seconds)]
            commands = {
                name: [sys.executable, "-m", "benchmarks.peer", "--one", name, str(length), *seconds]
                for name in options.models
            }
            if options.python:
                sizes = ["--length", length, "--items", NUM_ITEMS, "--categories", NUM_CATEGORIES]
                script = Path(__file__).with_name("fuxictr_din.py")
                commands["peer"] = [*map(str, (options.python, "-P", script, folder, *sizes)), *seconds]
            found = {name: asked(command, environment) for name, command in commands.items()}
            base = found.get("peer", {}).get("impressions_per_cpu_s")
            for name, figures in found.items():
                row = {"length": length, "allocator": allocator, "model": name, **figures}
                if base:
                    row["times_the_peer"] = row["impressions_per_cpu_s"] / base
                rows.append({key: round(value, 3) if isinstance(value, float) else value for key, value in row.items()})
                print(json.dumps(rows[-1]), flush=True)
    return rows


def asked(command: list[str], environment: dict[str, str]) -> dict[str, Any]:
    """The JSON that a process prints last."""
    kept = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=kept | environment, stdout=subprocess.PIPE, text=True, check=True, cwd=ROOT)
    return json.loads(done.stdout.splitlines()[-1])


def ours(name: str, length: int, seconds: float) -> float:
    """Impressions a CPU second: batch, forward, backward, clipping and the optimizer's step as the stage does them."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    sections = load_params(ROOT / PARAMS)
    params = sections["model"].model_copy(update={"history_length": length, "width": WIDTH})
    spec = FeatureSpec.of(sections["history"], sections["statistics"], length)
    shape = SHAPE.__class__(
        num_items=NUM_ITEMS, num_categories=NUM_CATEGORIES, max_categories=1, num_labels=spec.num_labels,
        num_rank_buckets=spec.num_rank_buckets, num_age_buckets=spec.num_age_buckets, num_scalars=len(spec.scalars),
    )  # fmt: skip
    model = build(name, params, shape)
    model.catalogue.row_of_N.copy_(torch.arange(NUM_ITEMS))
    model.catalogue.category_NG.random_(1, NUM_CATEGORIES)
    choose_sparse(model, sections["train"].optimizer)
    optimizer = make_optimizer(model, sections["train"].learning_rate)
    events, requests = log_of(length)
    scalars = np.random.default_rng(2).standard_normal((len(requests.label), len(spec.scalars)), np.float32)
    dataset = RequestDataset(spec, events, requests, scalars)
    loader = shuffled(dataset, sections["train"].batch_requests, seed=1)
    batches = chain.from_iterable(repeat(loader))
    number, began = 0, 0.0
    for step, batch in enumerate(batches):
        if step == 2:  # warm
            number, began = 0, time.process_time()
        elif step > 2 and time.process_time() - began >= seconds:
            break
        logits, information = model.learn(batch.history, batch.candidates, batch.codes)
        loss = click_loss(logits, batch.label_B) + sections["train"].mutual_information * information
        optimizer.zero_grad()
        loss.backward()
        if sections["train"].gradient_clip:
            clip_by_norm(model.parameters(), sections["train"].gradient_clip)
        optimizer.step()
        number += len(batch.label_B)
    return number / (time.process_time() - began)


def log_of(length: int) -> tuple[Events, Requests]:
    """Users with `length` events in sessions of about ten, and requests after the last of them."""
    draw = np.random.default_rng(0)
    total = NUM_USERS * length
    events = Events(
        item_index=draw.integers(FIRST_INDEX, NUM_ITEMS, total).astype(np.int32),
        occurred_at=np.tile(np.sort(draw.integers(0, 20 * DAY_US, length)), NUM_USERS),
        label=np.ones(total, np.float32),
        session=np.tile(np.arange(length) // 10, NUM_USERS).astype(np.int32),
        offsets=np.arange(NUM_USERS + 1) * length,
    )
    user = np.sort(draw.integers(0, NUM_USERS, NUM_REQUESTS))
    rows = NUM_REQUESTS * CANDIDATES
    requests = Requests(
        request_index=np.arange(NUM_REQUESTS),
        user_index=user,
        at=np.full(NUM_REQUESTS, 21 * DAY_US),
        starts=user * length,
        ends=(user + 1) * length,
        row_starts=np.arange(0, rows + 1, CANDIDATES),
        item_index=draw.integers(FIRST_INDEX, NUM_ITEMS, rows),
        label=(draw.random(rows) < 0.1).astype(np.float32),
        known_at=np.zeros(NUM_REQUESTS, np.int64),
        reading=np.zeros(NUM_REQUESTS, np.int64),
        is_subscriber=np.zeros(NUM_REQUESTS, bool),
        device=np.full(NUM_REQUESTS, ""),
    )
    return events, requests


def write_for_peer(folder: Path, events: Events, requests: Requests) -> None:
    """The same requests as LongCTR reads them: a row an impression, a user's whole sequence in a file beside it."""
    starts = events.offsets
    histories = [events.item_index[starts[user] : starts[user + 1]] for user in range(NUM_USERS)]
    pd.DataFrame({"full_item_seq": histories}).to_parquet(folder / "users.parquet")
    categories = np.random.default_rng(1).integers(1, NUM_CATEGORIES, NUM_ITEMS)
    index = np.arange(NUM_ITEMS)
    pd.DataFrame({"item_index": index, "item_id": index, "cate_id": categories}).to_parquet(folder / "items.parquet")
    each = requests.request_of_row
    rows = {
        "user_index": requests.user_index[each],
        "item_index": requests.item_index,
        "seq_len": requests.num_events[each],
        "label": requests.label.astype(np.int64),
    }
    pd.DataFrame(rows).to_parquet(folder / "train.parquet")


if __name__ == "__main__":
    main()
