"""A traced model scores as the model itself does, for any number of candidates; one that cannot be traced is left."""

from dataclasses import replace

import numpy as np
import pytest

from serving.answering.machine_code import computes, with_trace
from serving.answering.predictor import Predictor
from serving.answering.traced import trace
from serving.bundle.runner_up import open_runner_up
from serving.bundle.scorer import Scorer

pytestmark = pytest.mark.xdist_group("serving")


def scorers(predictor: Predictor) -> list[Scorer]:
    """Of the served model and of the other one of the run, as PyTorch computes them."""
    other = open_runner_up(predictor.bundle)
    assert other is not None
    return [replace(each.scorer, programs=None) for each in (predictor.bundle, other)]


def test_a_trace_scores_as_the_model_does_for_any_number_of_candidates(predictor: Predictor) -> None:
    random = np.random.default_rng(0)
    for scorer in scorers(predictor):
        programs = trace(scorer)
        assert programs is not None
        traced = replace(scorer, programs=programs)
        for place, golden in enumerate(predictor.bundle.golden):
            number = (1, 2, 7, 100, 333)[place % 5]
            index = random.integers(0, len(scorer.theme_NT), number)
            scalars = random.standard_normal((number, len(scorer.spec.scalars))).astype(np.float32)
            wanted, got = (
                each.score(each.user_side(golden.events, golden.at), index, scalars) for each in (scorer, traced)
            )
            np.testing.assert_allclose(got.logit_M, wanted.logit_M, rtol=0, atol=2e-6)
            np.testing.assert_array_equal(got.current_T, wanted.current_T)


def test_the_service_computes_by_the_trace_and_without_one_by_the_model(
    predictor: Predictor, caplog: pytest.LogCaptureFixture
) -> None:
    assert computes(predictor.bundle) == predictor.info()["computes"] == "PyTorch, traced"
    plain = replace(predictor.bundle, scorer=replace(predictor.bundle.scorer, programs=None))
    assert computes(plain) == "PyTorch"
    assert computes(with_trace(plain)) == "PyTorch, traced"
    tables = plain.scorer.tables
    broken = replace(plain, scorer=replace(plain.scorer, tables=tables._replace(item_NX=tables.item_NX[:, :1])))
    assert with_trace(broken) is broken
    assert "cannot be traced" in caplog.text
