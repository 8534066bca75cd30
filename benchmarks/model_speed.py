"""Random requests -> the models' training and inference speed on this CPU, and floating-point operations.

    python -m benchmarks.model_speed

One thread; CPU seconds, so that a busy machine changes little. Prints three tables.
"""

import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

from contracts.params import PARAMS, load_params
from training.fitting.losses import click_loss
from training.model.batch import Candidates, History
from training.model.build import MODELS, Model, build
from training.model.params import ModelParams
from training.model.shape import ModelShape

SHAPE = ModelShape(
    num_items=1502,
    num_categories=61,
    max_categories=1,
    num_labels=2,
    num_rank_buckets=11,
    num_age_buckets=26,
    num_scalars=20,
)
NUM_USERS = 64
REPEATS = 10


def main() -> None:
    """Print the tables."""
    torch.set_num_threads(1)
    params = load_params(Path(__file__).parents[1] / PARAMS)["model"]
    print(f"torch {torch.__version__}, one thread, D = {params.width}, T = {params.num_themes}\n")
    print("training: impressions per CPU second, 64 requests a batch")
    for name in MODELS:
        for length in (200, 500):
            speeds = [train_speed(name, params, length, each) for each in (1, 5, 20)]
            print(
                f"  {name} L={length}: " + ", ".join(f"M={m} {s:,.0f}" for m, s in zip((1, 5, 20), speeds, strict=True))
            )
    print("\ninference, one user, 100 candidates: CPU ms of the user's half + of the scores")
    for name in MODELS:
        for length in (200, 500, 1000):
            user_ms, score_ms = inference_ms(name, params, length)
            print(f"  {name} L={length}: {user_ms:.2f} + {score_ms:.2f}")
    print("\nMFLOP of a request of 100 candidates, matrix products only")
    for name in MODELS:
        counts = [megaflops(name, params, length) for length in (200, 500, 1000)]
        print(f"  {name}: " + ", ".join(f"L={n} {c:.1f}" for n, c in zip((200, 500, 1000), counts, strict=True)))


def train_speed(name: str, params: ModelParams, length: int, candidates_each: int) -> float:
    """Impressions per CPU second of forward, backward and optimizer step, L_MI included."""
    model, history, candidates = make(name, params, length, NUM_USERS, candidates_each)
    labels = (torch.rand(NUM_USERS * candidates_each) < 0.3).float()
    optimizer = torch.optim.Adam(model.parameters(), 5e-3)

    def step() -> None:
        logits, information_loss = model.learn(history, candidates)
        loss = click_loss(logits, labels) + 0.3 * information_loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return len(labels) / cpu_seconds(step)


def inference_ms(name: str, params: ModelParams, length: int) -> tuple[float, float]:
    """CPU ms of user_side and of score."""
    model, history, candidates = make(name, params, length, 1, 100)
    with torch.inference_mode():
        tables = model.tables()
        state = model.user_side(history, tables)
        user_s = cpu_seconds(lambda: model.user_side(history, tables))
        score_s = cpu_seconds(lambda: model.score(state, candidates, tables))
    return 1e3 * user_s, 1e3 * score_s


def megaflops(name: str, params: ModelParams, length: int) -> float:
    """Millions of multiplications and additions in matrix products, as torch counts them."""
    model, history, candidates = make(name, params, length, 1, 100)
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        model(history, candidates)
    return counter.get_total_flops() / 1e6


def make(
    name: str, params: ModelParams, length: int, num_users: int, candidates_each: int
) -> tuple[Model, History, Candidates]:
    """A model and full random histories in sessions of about ten events."""
    torch.manual_seed(0)
    model = build(name, params.model_copy(update={"history_length": length}), SHAPE)
    model.catalogue.row_of_N.copy_(torch.arange(SHAPE.num_items))
    model.catalogue.category_NG.random_(1, SHAPE.num_categories)
    shape = (num_users, length)
    history = History(
        item_index_UL=torch.randint(2, SHAPE.num_items, shape),
        label_UL=torch.ones(shape, dtype=torch.int64),
        rank_bucket_UL=torch.arange(length, 0, -1).log2().long().expand(shape),
        age_bucket_UL=torch.randint(0, SHAPE.num_age_buckets, shape),
        session_UL=(torch.arange(length) // 10).expand(shape),
        mask_UL=torch.ones(shape, dtype=torch.bool),
        last_age_bucket_U=torch.randint(0, SHAPE.num_age_buckets, (num_users,)),
    )
    number = num_users * candidates_each
    candidates = Candidates(
        torch.randint(2, SHAPE.num_items, (number,)),
        torch.arange(num_users).repeat_interleave(candidates_each),
        torch.randn(number, SHAPE.num_scalars),
    )
    return model, history, candidates


def cpu_seconds(work: Callable[[], object]) -> float:
    """Mean over a few repeats after two to warm up."""
    for _ in range(2):
        work()
    began = time.process_time()
    for _ in range(REPEATS):
        work()
    return (time.process_time() - began) / REPEATS


if __name__ == "__main__":
    main()
