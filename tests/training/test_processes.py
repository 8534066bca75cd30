"""Several processes train as one does, whatever share of a batch each of them gets."""

import multiprocessing
from itertools import chain

import pytest
import torch

from tests.training.small_run import changed, make_log, small_sections
from training import train
from training.fitting.data import RequestData
from training.model.build import build
from training.requests.batches import RequestLoader
from training.requests.sampler import BatchSampler


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


class BothShares(RequestData):
    """One process's data, which gives in each step what two processes are given together."""

    def train_dataloader(self):
        return RequestLoader(self.train, Together(self.train, self.batch_requests, self.seed))

    def steps_an_epoch(self, num_processes):
        return super().steps_an_epoch(2 * num_processes)


class Together(BatchSampler):
    """The batches of two processes as one."""

    def __init__(self, dataset, batch_requests, seed):
        shares = [dataset.share(process, 2) for process in (0, 1)]
        super().__init__(len(dataset), batch_requests, seed, shares[0])
        self.parts = [BatchSampler(len(dataset), batch_requests, seed, share) for share in shares]

    def __iter__(self):
        for batches in zip(*self.parts, strict=True):
            yield [position for batch in batches for position in batch if position >= 0]


def test_two_processes_end_with_the_weights_of_one_that_is_given_both_shares(tmp_path, monkeypatch):
    """67 requests in shares that differ: in the last step one process has none, or fewer than the other."""
    sections = small_sections()
    params = changed(
        sections["train"], max_requests=67, epochs=1, min_history=0, router_steps=0, learning_rate=2e-4,
        loss="both", accelerator="cpu", gradient_clip=1.0,
    )  # fmt: skip  # a larger rate would magnify the rounding of gradients near zero, by which Adam divides
    data = make_log(tmp_path / "data" / "simulator", sections)
    spec = train.feature_spec(sections["history"], sections["model"], sections["statistics"])
    prepared = train.prepare(data, spec, sections["split"], sections["labels"], params, 1, tmp_path / "scalars")
    assert len(prepared.train) == 67
    sizes = [len(prepared.train.share(process, 2).positions) for process in (0, 1)]
    assert sum(sizes) == 67
    assert sizes[0] != sizes[1]
    fitted = []
    for devices, given in ((1, BothShares), (2, RequestData)):
        monkeypatch.setattr("training.fitting.fit.RequestData", given)
        spread = changed(params, devices=devices, batch_requests=11)
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
