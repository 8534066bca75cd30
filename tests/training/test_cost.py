"""What a request costs: the formulas count what torch counts."""

import pytest

from tests.training.conftest import PARAMS, SHAPE
from training.judging.cost import FORMULAS, count_flops, flops_of_request
from training.model.shape import ModelShape
from training.requests.batches import Batch

LENGTH, CANDIDATES = 24, 7


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("mos", {}),
        ("mos", {"attention": "dot"}),
        ("mos", {"num_candidate_themes": 2, "hidden": (9,)}),
        ("mos", {"route": "session", "router": "tied"}),
        ("mos", {"route": "blend"}),
        ("mos", {"theme_capacity": 100, "short_length": 24}),
        ("mos", {"router": "random", "num_themes": 7}),
        ("din", {}),
        ("din", {"attention": "dot", "width": 12}),
        ("twin", {}),
    ],
)
def test_a_formula_counts_what_torch_counts(make_model, make_history, make_candidates, name, changes):
    model = make_model(name, **changes)
    params = PARAMS.model_copy(update=changes)
    batch = Batch(make_history([LENGTH], LENGTH), make_candidates(1, CANDIDATES), None)  # type: ignore[arg-type]
    counted = count_flops(model, batch)
    assert FORMULAS[name](params, SHAPE, LENGTH, CANDIDATES) == counted > 0
    assert flops_of_request(name, model, params, SHAPE, batch) == counted
    assert flops_of_request("a model without a formula", model, params, SHAPE, batch) == counted


def test_the_mixture_does_not_grow_with_the_history_as_its_baseline_does():
    shape = ModelShape(**{**vars(SHAPE), "num_items": 1000})
    mos, din = ([FORMULAS[name](PARAMS, shape, length, 100) for length in (200, 1000)] for name in ("mos", "din"))
    assert din[1] > 4 * din[0]
    assert mos[1] < 2 * mos[0]
