"""Training: which weights are kept, when it stops, and its memory."""

import math
import pickle
import tracemalloc

import numpy as np
import pytest
import torch

from benchmarks.fixed_routing import fix_routing
from contracts.errors import InputError
from contracts.params import PARAMS, load_params
from tests.training.small_run import changed, make_log, small_sections
from training import train
from training.fitting.calibrate import calibrate
from training.fitting.data import RequestData
from training.fitting.fit import pretrain_router
from training.fitting.learning import ClickTraining, information_of
from training.fitting.losses import click_loss
from training.fitting.measured import RankingFigures, ThemeUse
from training.judging.scoring import score_requests
from training.metrics import auc, gauc, iauc, logloss, sigmoid
from training.model.build import MODELS, build, fit_buffers
from training.model.params import TrainParams
from training.requests.batches import in_order, make_dataset, read_scalars, write_scalars
from training.requests.catalogue import load_counters, load_vocabulary
from training.requests.reader import load_events, load_requests


@pytest.fixture(scope="module")
def sections():
    found = small_sections()
    found["train"] = changed(found["train"], router_steps=0, min_history=0)
    return found


@pytest.fixture(scope="module")
def data(tmp_path_factory, sections):
    return make_log(tmp_path_factory.mktemp("fit") / "data" / "simulator", sections)


@pytest.fixture(scope="module")
def prepared(data, sections):
    spec = train.feature_spec(sections["history"], sections["model"], sections["statistics"])
    return train.prepare(data, spec, sections["split"], sections["labels"], sections["train"], 1)


def test_training_ends_after_so_many_validations_without_a_better_one(prepared, sections):
    """A learning rate of almost nothing: the first validation is the best, and its equals are no better."""
    still = changed(sections["train"], learning_rate=1e-12, patience=2, epochs=9)
    _, record, best = train.fit_one("din", sections["model"], prepared, still, 1)
    assert (best, len(record)) == (1, 3)
    _, record, _ = train.fit_one("din", sections["model"], prepared, changed(still, patience=None, epochs=2), 1)
    assert len(record) == 4


@pytest.mark.parametrize("choose_by", ["iauc", "logloss"])
def test_the_weights_that_are_left_are_those_of_the_row_that_is_chosen(prepared, sections, choose_by):
    """They are scored again on the validation part: a rate that overshoots makes the last row not the best."""
    params = changed(sections["train"], choose_by=choose_by, learning_rate=0.05, epochs=3)
    model, record, best = train.fit_one("din", sections["model"], prepared, params, 1)
    figures = RankingFigures()
    with torch.inference_mode():
        for batch in in_order(prepared.validation, 50):
            user_B = batch.candidates.user_of_B
            logits_B = model(batch.history, batch.candidates)
            figures.update(logits_B, batch.label_B, batch.request_U[user_B], batch.user_U[user_B])
    values = [getattr(row, f"validation_{choose_by}") for row in record]
    assert values[best - 1] == (min(values) if choose_by == "logloss" else max(values))
    assert figures.compute()[choose_by] == pytest.approx(values[best - 1], abs=1e-6)
    assert len(set(values)) > 1


def test_of_several_starts_of_the_router_the_one_with_most_information_is_left(prepared, sections, caplog):
    several = changed(sections["train"], router_steps=15, router_starts=4)
    caplog.set_level("INFO", logger="leitmotif")
    torch.manual_seed(1)
    model = build("mos", sections["model"], prepared.shape)
    fit_buffers(model, prepared.tables.row_of_item, prepared.tables.item_categories, *prepared.train.standardisation())
    data = RequestData(prepared.train, prepared.validation, 32, 1)
    pretrain_router("mos", model, data, several)
    told = [float(line.rpartition(" ")[2]) for line in caplog.messages if "mutual information" in line]
    assert len(set(told)) == 4  # each from a draw of its own
    whole = prepared.train.__getitems__(np.arange(len(prepared.train)))
    with torch.no_grad():
        assert -float(information_of(model, whole)) == pytest.approx(max(told), abs=1e-4)


def test_a_start_of_the_router_that_is_no_number_is_not_kept(prepared, sections, caplog):
    caplog.set_level("INFO", logger="leitmotif")
    torch.manual_seed(1)
    model = build("mos", sections["model"], prepared.shape)
    fit_buffers(model, prepared.tables.row_of_item, prepared.tables.item_categories, *prepared.train.standardisation())
    with torch.no_grad():
        model.router.prototype_TR.fill_(float("nan"))
    data = RequestData(prepared.train, prepared.validation, 32, 1)
    pretrain_router("mos", model, data, changed(sections["train"], router_steps=2, router_starts=2))
    assert [line.rpartition(" ")[2] == "-inf" for line in caplog.messages if "mutual information" in line] == [
        True,
        False,
    ]
    assert all(torch.isfinite(each).all() for each in model.router.state_dict().values())


def test_a_router_that_is_given_is_not_pretrained(prepared, sections):
    """The oracle of the comparison: its themes are those of the simulator."""
    model = build("mos", changed(sections["model"], router="random"), prepared.shape)
    fix_routing(model, np.arange(prepared.shape.num_items) % sections["model"].num_themes)
    before = model.router.prototype_TR.clone()
    data = RequestData(prepared.train, prepared.validation, 32, 1)
    pretrain_router("mos", model, data, changed(sections["train"], router_steps=3))
    assert torch.equal(model.router.prototype_TR, before)


@pytest.mark.parametrize("name", MODELS)
def test_every_model_takes_a_step_on_histories_as_they_are(prepared, sections, name):
    """Padded ones among them, whose sessions are numbered -1."""
    torch.manual_seed(1)
    model = build(name, sections["model"], prepared.shape)
    shortest = np.argsort(prepared.train.requests.num_events)[:8]
    batch = prepared.train.__getitems__(shortest)
    assert not batch.history.mask_UL.all()
    logits_B, information = model.learn(batch.history, batch.candidates, batch.codes)
    (click_loss(logits_B, batch.label_B) + information).backward()
    assert all(torch.isfinite(each.grad).all() for each in model.parameters() if each.grad is not None)


def test_gradients_are_clipped(prepared, sections):
    """Adam forgives a constant scale, so that a norm limit far below every gradient leaves eps to rule the steps."""
    once = changed(sections["train"], epochs=1)
    free, tight = (
        train.fit_one("din", sections["model"], prepared, changed(once, gradient_clip=limit), 1)[0]
        .head.layers[0]
        .weight
        for limit in (None, 1e-9)
    )
    torch.manual_seed(1)
    drawn = train.build("din", sections["model"], prepared.shape).head.layers[0].weight
    assert (tight - drawn).abs().max() < 0.2 * (free - drawn).abs().max()


def test_figures_over_batches_are_those_over_all_rows():
    rng = np.random.default_rng(1)
    logits, labels = rng.normal(size=200).astype(np.float32), (rng.random(200) < 0.4).astype(np.float32)
    requests = np.repeat(np.arange(40), 5)
    users = requests % 7
    figures = RankingFigures()
    for rows in np.split(np.arange(200), [30, 35, 120]):
        figures.update(*(torch.from_numpy(each[rows]) for each in (logits, labels, requests, users)))
    probabilities = 1 / (1 + np.exp(-logits.astype(np.float64)))
    expected = {"auc": auc(logits, labels), "gauc": gauc(logits, labels, users), "iauc": iauc(logits, labels, requests)}
    assert figures.compute() == pytest.approx(expected | {"logloss": logloss(probabilities, labels)}, abs=1e-6)
    figures.update(torch.tensor([math.nan]), torch.ones(1), torch.zeros(1), torch.zeros(1))
    figures._computed = None
    assert all(math.isnan(value) for value in figures.compute().values()), "a diverged model's scores are no order"


def test_load_and_entropy_of_a_routing():
    """Three events, the fourth is padding: two of theme 0, one barely of theme 1; entropies 0, 0 and 1 of log 2."""
    use = ThemeUse(2)
    routing = torch.tensor([[[1.0, 0.0], [1.0, 0.0]], [[0.0, 1.0], [0.5 - 1e-6, 0.5 + 1e-6]]])
    use.update(routing, torch.tensor([[True, True], [False, True]]))
    expected = {"load_00": 2 / 3, "load_01": 1 / 3, "routing_entropy": 1 / 3}
    assert use.compute() == pytest.approx(expected, abs=1e-6)


def test_scalars_of_a_file_are_those_of_memory_and_memory_does_not_grow_with_them(
    data, sections, tmp_path, monkeypatch
):
    monkeypatch.setattr("training.requests.batches.READ_AT_ONCE", 64)
    spec = train.feature_spec(sections["history"], sections["model"], sections["statistics"])
    events, counters = load_events(data), load_counters(data, load_vocabulary(data))
    requests = load_requests(data, events)
    peaks = []
    for part in (requests.take(np.arange(len(requests) // 8)), requests):
        tracemalloc.start()
        write_scalars(tmp_path / "scalars.npy", spec, events, part, counters)
        dataset = train.RequestDataset(spec, events, part, np.load(tmp_path / "scalars.npy", mmap_mode="r"))
        mean, deviation = dataset.standardisation()
        for positions in in_order(dataset, 64).batch_sampler:
            dataset.__getitems__(positions)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert len(part.label) > 5_000
    assert peaks[1] < peaks[0] + 0.1 * len(part.label) * len(spec.scalars) * 4, "not a tenth of them is held"
    expected = read_scalars(spec, events, part, counters)
    assert np.array_equal(dataset.scalars, expected)
    np.testing.assert_allclose(mean, expected.mean(axis=0, dtype=np.float64), rtol=0, atol=1e-9)
    np.testing.assert_allclose(deviation, expected.std(axis=0, dtype=np.float64), rtol=0, atol=1e-9)


def test_pickled_datasets_do_not_contain_memory_mapped_arrays(data, sections, tmp_path):
    spec = train.feature_spec(sections["history"], sections["model"], sections["statistics"])
    events, counters = load_events(data), load_counters(data, load_vocabulary(data))
    requests = load_requests(data, events)
    sent = [
        pickle.dumps(make_dataset(spec, events, requests.take(np.arange(number)), counters, tmp_path / f"{number}.npy"))
        for number in (100, 1000)
    ]
    dataset = pickle.loads(sent[1])
    assert len(sent[0]) < events.occurred_at.nbytes
    assert len(sent[1]) - len(sent[0]) < 0.5 * dataset.scalars.nbytes
    again = dataset.__getitems__([5, 999])
    whole = make_dataset(spec, events, requests.take(np.arange(1000)), counters).__getitems__([5, 999])
    assert all(torch.equal(one, two) for one, two in zip(again.history, whole.history, strict=True))
    assert torch.equal(again.candidates.scalars_BS, whole.candidates.scalars_BS)


def test_a_listwise_loss_is_not_chosen_by_a_logloss():
    raw = load_params(train.Path(__file__).parents[2] / PARAMS)["train"].model_dump()
    with pytest.raises(ValueError, match="gives no probabilities: use gauc or iauc"):
        TrainParams.model_validate(raw | {"loss": "listwise", "choose_by": "logloss"})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"strategy": "dpp"}, "strategy = dpp"),
        ({"optimizer": "sparse", "devices": 2}, "2 processes train together.*train.devices to 1"),
        pytest.param(
            {"accelerator": "gpu"},
            "accelerator = gpu",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="asks for a machine without a GPU"),
        ),
    ],
)
def test_unsupported_training_settings_are_one_error_message(prepared, sections, changes, message):
    with pytest.raises(InputError, match=message):
        train.fit_one("din", sections["model"], prepared, changed(sections["train"], **changes), 1)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="asks for a GPU")
def test_too_little_memory_of_a_gpu_names_the_batch_to_lower(prepared, sections):
    torch.cuda.set_per_process_memory_fraction(1e-4)
    try:
        with pytest.raises(InputError, match=r"train\.batch_requests = 300.*batch_requests=150"):
            train.fit_one("mos", sections["model"], prepared, changed(sections["train"], batch_requests=300), 1)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


def test_a_batch_for_form_alone_has_no_loss(prepared, sections):
    model = train.build("mos", sections["model"], prepared.shape)
    module = ClickTraining("mos", model, sections["train"], 1)
    batch = prepared.train.__getitems__([~3])
    assert not batch.counts
    assert not batch.history.mask_UL.any()
    assert torch.equal(batch.candidates.item_index_B, prepared.train.__getitems__([3]).candidates.item_index_B)
    assert torch.isfinite(module.model(batch.history, batch.candidates)).all()


def test_logits_are_stretched_and_moved_to_probabilities(prepared, sections) -> None:
    model, _, _ = train.fit_one("din", sections["model"], prepared, sections["train"], 3)
    with torch.no_grad():  # as a loss within requests leaves them: in order, far off
        model.head.layers[-1].weight *= 7
        model.head.layers[-1].bias += 5
    labels = prepared.validation.requests.label
    before = score_requests("din", model, prepared.validation)
    told = calibrate(model, prepared.validation)
    after = score_requests("din", model, prepared.validation)
    assert told is not None
    np.testing.assert_allclose(after, told[0] * before + told[1], rtol=1e-4, atol=1e-4)
    assert abs(auc(before, labels) - auc(after, labels)) < 1e-3
    share = labels.mean()
    constant = -(share * np.log(share) + (1 - share) * np.log1p(-share))
    assert logloss(sigmoid(before), labels) > constant > logloss(sigmoid(after), labels)
    assert abs(sigmoid(after).mean() - share) < 1e-3


def test_a_model_that_ranks_the_wrong_way_round_stays_as_it_was(prepared, sections) -> None:
    model, _, _ = train.fit_one("din", sections["model"], prepared, sections["train"], 3)
    with torch.no_grad():
        model.head.layers[-1].weight *= -1
    before = score_requests("din", model, prepared.validation)
    assert calibrate(model, prepared.validation) is None
    np.testing.assert_array_equal(score_requests("din", model, prepared.validation), before)
