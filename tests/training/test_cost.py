"""What a request costs: the formulas count what torch counts."""

import pytest
import torch

from tests.training.conftest import PARAMS, SHAPE
from training.judging.cost import count_flops, flops_of_request
from training.model.build import ALONE, MODELS
from training.requests.batches import Batch

LENGTH, CANDIDATES = 64, 7
WIDE = {"history_length": LENGTH, "theme_capacity": 60}  # TWIN finds 50 of more
MIXTURES = [
    {},
    {"num_candidate_themes": 2, "hidden": (9,)},
    {"route": "session", "router": "tied"},
    {"route": "blend", "global_expert": "backbone"},
    {"theme_capacity": 100, "short_length": 64},
    {"router": "random", "num_themes": 7, "width": 12},
    *({"backbone": name, "global_expert": "backbone"} for name in ALONE),
]


def counted(make_model, make_history, make_candidates, name, changes):
    """(by formula, by torch)."""
    params = PARAMS.model_copy(update=WIDE | changes)
    model = make_model(name, **WIDE | changes)
    none = torch.zeros(1, dtype=torch.int64)
    batch = Batch(make_history([LENGTH], LENGTH), make_candidates(1, CANDIDATES), none.float(), none, none)
    return flops_of_request(name, params, SHAPE, LENGTH, CANDIDATES), count_flops(model, batch)


@pytest.mark.parametrize("changes", MIXTURES)
def test_the_formula_of_the_mixture_counts_what_torch_counts(make_model, make_history, make_candidates, changes):
    by_formula, by_torch = counted(make_model, make_history, make_candidates, "mos", changes)
    assert by_formula == by_torch > 0


@pytest.mark.parametrize("name", [name for name in MODELS if name != "mos"])
def test_the_formula_of_every_other_model_counts_what_torch_counts(make_model, make_history, make_candidates, name):
    by_formula, by_torch = counted(make_model, make_history, make_candidates, name, {"backbone": "twin"})
    assert by_formula == by_torch > 0


def test_a_model_without_a_formula_has_none():
    assert flops_of_request("of tomorrow", PARAMS, SHAPE, LENGTH, CANDIDATES) is None


def test_the_mixture_does_not_grow_with_the_history_as_its_backbone_does():
    mos, din = (
        [flops_of_request(name, PARAMS, SHAPE, length, 100) for length in (200, 1000)] for name in ("mos", "din")
    )
    assert din[1] > 4 * din[0]
    assert mos[1] < 2 * mos[0]
