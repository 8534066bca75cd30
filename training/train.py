"""Histories, impressions and counters -> weights of the Mixture of Sequence and of its DIN baseline.

Reads user_histories, impressions, the three tables of counters and coclicks; writes weights and
training_record. Trains on requests before split.validation and chooses the weights on those before split.test, only
with labels that were known by then (labels.delay_s). While it runs, checkpoints are in .state/<id>/train and curves in
.state/<id>/dvclive: a killed run resumes and gives the same bytes. Several processes train together: of one node by
train.devices, of several when torchrun starts this program on each of them; the first one writes.
"""

import logging
import shutil
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
import torch

from contracts.errors import CheckFailed
from contracts.publish import publish, write_json
from contracts.stage import Report, main
from features.encoding.encode import FeatureSpec
from features.terms.params import HistoryParams, LabelParams, SplitParams, StatisticsParams
from training.fitting.calibrate import calibrate
from training.fitting.checkpoint import inputs_of, open_state
from training.fitting.continued import BASELINE, check_start, fit_from, order
from training.fitting.fit import Places, fit
from training.fitting.memory import keep_freed_memory
from training.fitting.ranks import ALONE, Ranks, joined
from training.fitting.record import Measured, write_record
from training.model.build import GRAPH_MODELS, Model, build, describe, fit_buffers, save_weights
from training.model.mixture import MixtureOfSequence
from training.model.params import ModelParams, TrainParams
from training.model.processes import gathered
from training.model.shape import ModelShape
from training.requests.batches import RequestDataset, make_dataset
from training.requests.catalogue import ItemTables, Vocabulary, count_items, fit_tables, load_counters, load_vocabulary
from training.requests.moments import Moments
from training.requests.reader import (
    BareRequests,
    Cuts,
    Requests,
    cut_times,
    iso,
    load_bare_requests,
    load_events,
    log_end,
    with_candidates,
)
from training.requests.sample import Sample, require_both_labels, sample_train, sample_validation
from training.requests.sampler import share_out

log = logging.getLogger("leitmotif")

Fitted = tuple[Model, list[Measured], int]
"""A model with its best weights, its training record, and the number of the best row."""
SCALE_FLOOR = 1e-6  # a constant scalar is not scaled


@dataclass(frozen=True)
class Prepared:
    """The data that both models are fitted on."""

    spec: FeatureSpec
    cuts: Cuts
    num_label_unknown: int  # requests of the train and validation parts that were left out
    sample: Sample[BareRequests] | Sample[Requests]  # of all processes
    train: RequestDataset
    validation: RequestDataset
    tables: ItemTables
    shape: ModelShape


def run(
    data: Path,
    history: HistoryParams,
    labels: LabelParams,
    model: ModelParams,
    seed: int,
    split: SplitParams,
    statistics: StatisticsParams,
    train: TrainParams,
) -> Report:
    """Raises InputError if there is nothing to train on."""
    torch.set_num_threads(train.num_threads)
    sections = {"history": history, "labels": labels, "model": model, "seed": seed, "split": split}
    sections |= {"statistics": statistics, "train": train}
    with joined(train) as ranks:
        places = open_places(data, ranks, **sections)
        spec = feature_spec(history, model, statistics)
        check_start(model, train)
        prepared = prepare(data, spec, split, labels, train, seed, places.checkpoints, ranks)
        keep_freed_memory(largest_tensor(prepared.train, model, train))
        fitted: dict[str, Fitted] = {}
        for name in order(GRAPH_MODELS, train):
            fitted[name] = fit_one(name, model, prepared, train, seed, places, ranks, fitted.get(BASELINE))
    if not ranks.is_first:
        shutil.rmtree(places.checkpoints, ignore_errors=True)
        return {}
    fitted = {name: fitted[name] for name in GRAPH_MODELS}
    return _finish(data, model, train, spec, prepared, fitted, places)


def _finish(
    data: Path,
    model: ModelParams,
    train: TrainParams,
    spec: FeatureSpec,
    prepared: Prepared,
    fitted: dict[str, Fitted],
    places: Places,
) -> Report:
    """Calibrate, and publish the weights and the record."""
    if any(not all_finite(built) for built, _, _ in fitted.values()):
        shutil.rmtree(places.checkpoints)  # a run that resumes there would fail there again
    elif train.calibrate:
        for built, _, _ in fitted.values():
            calibrate(built, prepared.validation)
    record = [measured for _, rows, _ in fitted.values() for measured in rows]
    report = _report(prepared, fitted)
    with publish(data, "weights", "training_record") as staging:
        for name, (built, _, _) in fitted.items():
            require_finite_weights(name, built)
            save_weights(built, staging / "weights" / f"{name}.safetensors")
        description = describe(model, prepared.shape)
        description |= {"feature_spec": spec.to_json(), "feature_spec_hash": spec.hash()}
        description |= {"trained_before_us": prepared.cuts.validation_at, "chosen_before_us": prepared.cuts.test_at}
        description |= {"num_threads": train.num_threads, "min_history": prepared.sample.min_history}
        description |= {"validation": {name: _validated(each) for name, each in fitted.items()}}
        write_json(staging / "weights" / "model.json", description)
        write_record(staging / "training_record" / "record.csv", record)
        write_json(staging / "training_record" / "training.json", report)
    shutil.rmtree(places.checkpoints, ignore_errors=True)
    return report


def largest_tensor(requests: RequestDataset, model: ModelParams, train: TrainParams) -> int:
    """Size in bytes of the largest tensor of a step: target attention of all candidates to their histories, float32."""
    candidates = train.batch_requests * len(requests.requests.label) / max(len(requests), 1)
    return round(4 * candidates * model.history_length * model.width)


def open_places(data: Path, ranks: Ranks = ALONE, **params: Any) -> Places:
    """The folders of this run's state; state of a run with other inputs is removed.

    A process that is not the first has one of its own, which it empties: checkpoints come from the first.
    """
    state, code = Path(".state") / data.name, Path(__file__).parents[1]
    places = Places(state / ("train" if ranks.is_first else f"train-process-{ranks.rank}"), state / "dvclive")
    if ranks.world > 1:
        inputs = inputs_of(params, data, code)
        ranks.same_inputs({f"{kind} {name}": str(each) for kind, part in inputs.items() for name, each in part.items()})
    if not ranks.is_first:
        shutil.rmtree(places.checkpoints, ignore_errors=True)
        return places
    open_state(places.checkpoints, params, data, code)
    if not any(places.checkpoints.glob("*/*.ckpt")):  # nothing to resume from: drop the curves too
        shutil.rmtree(places.live, ignore_errors=True)
    return places


def feature_spec(history: HistoryParams, model: ModelParams, statistics: StatisticsParams) -> FeatureSpec:
    """The params that define the features."""
    return FeatureSpec.of(history, statistics, model.history_length)


def prepare(
    data: Path,
    spec: FeatureSpec,
    split: SplitParams,
    labels: LabelParams,
    train: TrainParams,
    seed: int,
    folder: Path | None = None,
    ranks: Ranks = ALONE,
) -> Prepared:
    """Read, split by time, sample and count; no request at or after split.test is used.

    folder: for the scalar features while training runs; None: in memory. ranks: each process keeps the candidates, and
    reads the histories, of the users of its share alone, and all of the validation part's.
    """
    files = [folder / f"{part}_scalars.npy" if folder else None for part in ("train", "validation")]
    events = load_events(data)
    requests = load_bare_requests(data, events)
    cuts = cut_times(split, labels, requests.at, log_end(requests, events))
    sample = sample_train(cuts.part(requests, "train"), train, seed)
    shares = share_out(sample.requests.user_index, ranks.world)
    mine = with_candidates(data, sample.requests.take(shares[ranks.rank]))
    require_both_labels(mine)
    vocabulary = load_vocabulary(data)
    counters = load_counters(data, vocabulary)
    largest = None if ranks.world == 1 else max(len(each) for each in shares)
    counted = gathered(count_items(mine, events, spec.history_length, vocabulary.num_items))
    tables = fit_tables(vocabulary, np.sum(counted, axis=0), train.min_item_events, train.min_category_events)
    of_validation = sample_validation(cuts.part(requests, "validation"), sample.min_history, train, seed)
    validation = with_candidates(data, of_validation)
    log.info(
        "train on %s requests before %s, validate on %s", f"{len(sample.requests):,}", iso(cuts.validation_at),
        f"{len(validation):,}",
    )  # fmt: skip
    return Prepared(
        spec=spec,
        cuts=cuts,
        num_label_unknown=cuts.num_label_unknown(requests, "train", "validation"),
        sample=sample,
        train=make_dataset(spec, events, mine, counters, files[0], largest),
        validation=make_dataset(spec, events, validation, counters, files[1]),
        tables=tables,
        shape=shape_of(spec, tables, vocabulary, len(spec.scalars)),
    )


def shape_of(spec: FeatureSpec, tables: ItemTables, vocabulary: Vocabulary, num_scalars: int) -> ModelShape:
    """The sizes of a model that depend on the data."""
    return ModelShape(
        num_items=vocabulary.num_items,
        num_categories=tables.num_categories,
        max_categories=tables.item_categories.shape[1],
        num_labels=spec.num_labels,
        num_rank_buckets=spec.num_rank_buckets,
        num_age_buckets=spec.num_age_buckets,
        num_scalars=num_scalars,
        code_width=spec.code_width,
    )


def fit_one(
    name: str,
    params: ModelParams,
    prepared: Prepared,
    train: TrainParams,
    seed: int,
    places: Places | None = None,
    ranks: Ranks = ALONE,
    baseline: Fitted | None = None,
) -> Fitted:
    """A fitted model with its best weights, the training record, and the number of the best row.

    baseline: the trained backbone, from which MoS starts if train.start says so; None: it is trained before.
    """
    start = None
    if train.start == "backbone" and name == "mos":
        start = baseline or fit_one(BASELINE, params, prepared, train, seed, places, ranks)
    torch.manual_seed(seed)
    model = build(name, params, prepared.shape)
    moments = reduce(Moments.merged, gathered(prepared.train.moments()))
    moments.require_finite(prepared.spec.scalars)
    mean, scale = moments.standardisation()
    scale[scale < SCALE_FLOOR] = 1.0
    fit_buffers(model, prepared.tables.row_of_item, prepared.tables.item_categories, mean, scale)
    given = (prepared.train, prepared.validation, train, seed, places, ranks)
    if start is not None and isinstance(model, MixtureOfSequence):
        record, best = fit_from(start, model, *given)
    else:
        record, best = fit(name, model, *given)
    return model, record, best


def _report(prepared: Prepared, fitted: dict[str, Fitted]) -> dict[str, Any]:
    model, record, best = fitted["mos"]
    report = {
        "num_parameters": num_parameters(model),
        "epochs": record[-1].epoch,
        "best_epoch": record[best - 1].epoch,
        "best_step": record[best - 1].step,
        "num_steps": record[-1].step,
        "num_validations": len(record),
        "num_requests": len(prepared.sample.requests),
        "num_impressions": prepared.sample.requests.num_rows,
        "num_validation_requests": len(prepared.validation),
        "num_requests_label_unknown": prepared.num_label_unknown,
        "min_history": prepared.sample.min_history,
        "num_cold_items": prepared.tables.num_cold_items,
        "trained_from": iso(prepared.cuts.train_at),
        "trained_before": iso(prepared.cuts.validation_at),
        "feature_spec_hash": prepared.spec.hash(),
        "notes": prepared.sample.notes,
        "baseline_num_parameters": num_parameters(fitted["din"][0]),
        "baseline_best_epoch": fitted["din"][1][fitted["din"][2] - 1].epoch,
    }
    for name, each in fitted.items():
        report |= {f"{name}_validation_{figure}": value for figure, value in _validated(each).items()}
    return report


def _validated(fitted: Fitted) -> dict[str, float | None]:
    """The validation figures of the chosen weights; None where undefined."""
    _, record, best = fitted
    values = {name: getattr(record[best - 1], f"validation_{name}") for name in ("auc", "gauc", "iauc", "logloss")}
    return {name: round(value, 6) if np.isfinite(value) else None for name, value in values.items()}


def all_finite(model: Model) -> bool:
    """Whether all weights are finite."""
    return all(bool(torch.isfinite(value).all()) for value in model.state_dict().values())


def require_finite_weights(name: str, model: Model) -> None:
    """Raises CheckFailed if a weight is NaN or infinite, so that such a model is never saved."""
    bad = [key for key, value in model.state_dict().items() if not torch.isfinite(value).all()]
    if bad:
        raise CheckFailed(
            f"{name} has diverged: {', '.join(bad[:3])} of its weights are not finite (NaN or infinite), {len(bad)} of "
            f"{len(model.state_dict())} tensors, so nothing was saved. Lower train.learning_rate, or raise "
            "model.temperature if it is far below 0.2."
        )


def num_parameters(model: Model) -> int:
    """Number of trainable and frozen weights, without buffers."""
    return sum(parameter.numel() for parameter in model.parameters())


if __name__ == "__main__":
    main(run, several=True)
