"""Small models and random histories for the tests of training."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from training.model.batch import Candidates, History
from training.model.build import Model, build, fit_buffers
from training.model.params import ModelParams
from training.model.shape import ModelShape

SHAPE = ModelShape(
    num_items=42,
    num_categories=7,
    max_categories=2,
    num_labels=2,
    num_rank_buckets=7,
    num_age_buckets=12,
    num_scalars=3,
)
PARAMS = ModelParams(
    history_length=24,
    width=8,
    router_width=6,
    num_themes=4,
    theme_capacity=5,
    num_candidate_themes=1,
    short_length=6,
    router="decoupled",
    route="item",
    backbone="din",
    global_expert="mean",
    temperature=0.2,
    hidden=(16, 8),
    dropout=0.0,
)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)  # several tests run at once


@pytest.fixture
def shape() -> ModelShape:
    return SHAPE


@pytest.fixture
def params() -> ModelParams:
    return PARAMS


@pytest.fixture
def make_model() -> Callable[..., Model]:
    """A model in double precision with filled buffers; keywords change the parameters."""

    def make(name: str = "mos", **changes: object) -> Model:
        torch.manual_seed(1)
        model = build(name, PARAMS.model_copy(update=changes), SHAPE)
        rng = np.random.default_rng(2)
        rows = np.arange(SHAPE.num_items)
        rows[-5:] = 1  # cold items
        categories = rng.integers(0, SHAPE.num_categories, (SHAPE.num_items, SHAPE.max_categories))
        fit_buffers(model, rows, categories, np.array([0.5, 0.0, -1.0]), np.array([1.0, 2.0, 0.5]))
        return model.double()

    return make


@pytest.fixture
def make_history() -> Callable[..., History]:
    """Random right-aligned histories of the given lengths."""

    def make(lengths: list[int], width: int = 24, seed: int = 3) -> History:
        rng = np.random.default_rng(seed)
        shape = (len(lengths), width)
        rank = width - np.arange(width)
        mask = rank <= np.array(lengths)[:, None]
        arrays = [
            rng.integers(2, SHAPE.num_items, shape),
            rng.integers(0, 2, shape),
            np.broadcast_to(np.log2(rank).astype(int), shape),
            rng.integers(0, SHAPE.num_age_buckets, shape),
            np.cumsum(rng.random(shape) < 0.2, axis=1),
        ]
        tensors = [torch.from_numpy(np.where(mask, array, 0)) for array in arrays]
        last = torch.from_numpy(rng.integers(0, SHAPE.num_age_buckets, len(lengths)))
        return History(*tensors, torch.from_numpy(mask), last)

    return make


@pytest.fixture
def make_candidates() -> Callable[..., Candidates]:
    """Random candidates, the same number for each of the users."""

    def make(num_users: int, each: int, seed: int = 4) -> Candidates:
        rng = np.random.default_rng(seed)
        return Candidates(
            torch.from_numpy(rng.integers(1, SHAPE.num_items, num_users * each)),
            torch.arange(num_users).repeat_interleave(each),
            torch.from_numpy(rng.normal(size=(num_users * each, SHAPE.num_scalars))),
        )

    return make
