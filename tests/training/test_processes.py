"""Several processes train as one does, whatever share of a batch each of them gets."""

import multiprocessing
from collections import Counter
from itertools import chain

import pytest
import torch

from tests.training.small_run import changed, make_log, small_sections
from training import train
from training.model.build import build
from training.requests.sampler import BatchSampler


@pytest.mark.parametrize("num_requests", [1, 7, 8, 9, 23, 24])
@pytest.mark.parametrize("seed", [None, 5])
def test_two_processes_share_out_the_steps_of_one_with_twice_the_batch(num_requests, seed):
    one = list(BatchSampler(num_requests, 8, seed))
    shares = [list(BatchSampler(num_requests, 4, seed, process, 2)) for process in (0, 1)]
    assert len(shares[0]) == len(shares[1]) == len(one)
    for whole, *parts in zip(one, *shares, strict=True):
        assert all(parts)
        assert Counter(position for part in parts for position in part if position >= 0) == Counter(whole)


def test_a_sampler_resumes_at_its_position_and_epochs_have_different_orders():
    sampler = BatchSampler(20, 3, 1)
    first = list(sampler)
    sampler.set_epoch(1)
    second = list(sampler)
    assert sorted(chain(*first)) == sorted(chain(*second)) == list(range(20))
    assert first != second
    again = BatchSampler(20, 3, 1)
    again.load_state_dict({"epoch": 1, "position": 4, "seed": 1, "num_requests": 20})
    again.set_epoch(1)
    assert list(again) == second[4:]
    with pytest.raises(ValueError, match="another order"):
        again.load_state_dict({"epoch": 1, "position": 4, "seed": 2, "num_requests": 20})


def test_two_processes_end_with_the_weights_of_one_with_twice_the_batch(tmp_path):
    """67 requests in batches of 22 or 2 x 11: the last step has one request, so that one process has none."""
    sections = small_sections()
    params = changed(
        sections["train"], max_requests=67, epochs=1, min_history=0, router_steps=0, learning_rate=1e-3,
        loss="both", accelerator="cpu", gradient_clip=1.0,
    )  # fmt: skip
    data = make_log(tmp_path / "data" / "simulator", sections)
    spec = train.feature_spec(sections["history"], sections["model"], sections["statistics"])
    prepared = train.prepare(data, spec, sections["split"], sections["labels"], params, 1, tmp_path / "scalars")
    assert len(prepared.train) == 67
    fitted = []
    for devices, batch_requests in ((1, 22), (2, 11)):
        spread = changed(params, devices=devices, batch_requests=batch_requests)
        model, record, _ = train.fit_one("mos", sections["model"], prepared, spread, 1)
        fitted.append((model.state_dict(), record))
    (one, one_record), (two, two_record) = fitted
    torch.manual_seed(1)
    drawn = build("mos", sections["model"], prepared.shape).state_dict()
    moved = [name for name in one if (one[name] - drawn[name]).abs().max() > 1e-4]
    assert {"items.item.weight", "router.item.item.weight", "router.prototype_TR"} <= set(moved)
    for name, value in one.items():
        assert (two[name] - value).abs().max() <= 1e-6, name
    for alone, shared in zip(one_record, two_record, strict=True):
        assert shared.step == alone.step
        assert shared.validation_auc == pytest.approx(alone.validation_auc, abs=1e-4)
        assert shared.routing_entropy == pytest.approx(alone.routing_entropy, abs=1e-6)
    assert not multiprocessing.active_children()
