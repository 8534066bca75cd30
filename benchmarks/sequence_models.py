"""A track's parts -> the sequence models and their ablations, fitted on the very rows and scalars that the trees see.

The epoch is chosen on the validation part, by iAUC for a listwise loss and by log loss else. Probabilities come from a
logistic curve on the validation part, as the trees' do. Logits are kept by what they were made from.
"""

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.contenders import Contender, calibrated
from benchmarks.kept import digest_arrays, digest_files, kept
from benchmarks.tracks import PARTS, Log, Part, Track
from features.encoding.encode import FeatureSpec
from training.judging.scoring import score_requests
from training.metrics import iauc
from training.model.params import ModelParams, TrainParams
from training.requests.batches import RequestDataset
from training.requests.catalogue import Vocabulary, count_items, fit_tables, load_vocabulary
from training.requests.reader import Events, load_events
from training.requests.sample import Sample
from training.train import Prepared, fit_one, shape_of

log = logging.getLogger("leitmotif")

ROOT = Path(__file__).parents[1]
CODE = ("training/**/*.py", "features/encoding/encode.py")
"""What decides a model's logits beside its inputs; the values of the scalars are in the digest of the inputs."""


@dataclass(frozen=True)
class Variant:
    """One row of the table: a model, and what of it departs from params.yaml."""

    model: str
    what: str
    loss: str = "pointwise"
    changes: Mapping[str, Any] = field(default_factory=dict)  # of the model section
    fitted: Mapping[str, Any] = field(default_factory=dict)  # of the train section
    history: bool = True
    scalars: bool = True


WITH_ROWS = {"min_item_events": 300, "epochs": 3}
"""Routing needs items to route. Chosen on EB-NeRD's validation day."""
OF_IDS = {"min_item_events": 2, "epochs": 2}

VARIANTS = {
    "din": Variant("din", "DIN"),
    "din_listwise": Variant("din", "DIN, softmax within the request", loss="listwise"),
    "twin": Variant("twin", "TWIN-style: search the history, attend to the 50 found"),
    "mos": Variant("mos", "MoS"),
    "mos_listwise": Variant("mos", "MoS, softmax within the request", loss="listwise"),
    "mos_both": Variant("mos", "MoS, the sum of both losses", loss="both"),
    "mos_item_rows": Variant("mos", "MoS, frequent items with rows of their own", fitted=WITH_ROWS),
    "mos_random_routing": Variant(
        "mos", "MoS, frequent items with rows, routing as drawn", changes={"router": "random"}, fitted=WITH_ROWS
    ),
    "din_no_history": Variant("din", "DIN, every history empty", changes={"history_length": 1}, history=False),
    "din_no_scalars": Variant("din", "DIN, ids and history alone", fitted=OF_IDS, scalars=False),
}


@dataclass(frozen=True)
class Bench:
    """What every variant of a track is fitted on."""

    source: Log
    track: Track
    events: Events
    vocabulary: Vocabulary
    model: ModelParams
    train: TrainParams
    keep_in: Path
    digest: str  # of the data and the code


def open_bench(source: Log, track: Track, data: Path, model: ModelParams, train: TrainParams, keep_in: Path) -> Bench:
    """Read the events and the vocabulary. keep_in: where the logits are kept."""
    events, vocabulary = load_events(data), load_vocabulary(data)
    arrays = [events.item_index, events.occurred_at, events.label, events.session]
    for part in (track.train, track.validation, track.test):
        asked = part.requests
        arrays += [part.scalars, asked.at, asked.starts, asked.ends, asked.row_starts, asked.item_index, asked.label]
    arrays += [vocabulary.pair_item, vocabulary.pair_category]
    code = digest_files(path for pattern in CODE for path in ROOT.glob(pattern))
    return Bench(source, track, events, vocabulary, model, train, keep_in, f"{digest_arrays(arrays)} {code}")


def sequence_model(bench: Bench, name: str, seeds: list[int]) -> Contender:
    """One of VARIANTS, once a seed."""
    variant, label = VARIANTS[name], bench.track.validation.label
    model = bench.model.model_copy(update={"global_expert": "mean", **variant.changes})
    train = bench.train.model_copy(update={"start": "random", "loss": variant.loss, **variant.fitted})
    made = []
    for seed in seeds:
        made_from = {
            "variant": {"model": variant.model, "history": variant.history, "scalars": variant.scalars},
            "params": model.model_dump(mode="json"),
            "train": train.model_dump(mode="json"),
            "seed": seed,
            "spec": bench.track.spec.to_json(),
            "data_and_code": bench.digest,
            "torch": version("torch"),
        }
        made.append(
            kept(bench.keep_in, name, made_from, lambda seed=seed: _fit(bench, name, variant, model, train, seed))
        )
    epochs = "/".join(str(int(one["epoch"])) for one in made)
    scored = [calibrated(one["validation"], one["test"], label) for one in made]
    return Contender(name, scored, f"{variant.what}; {variant.loss}, epochs {epochs} of {train.epochs}")


def _fit(
    bench: Bench, name: str, variant: Variant, model: ModelParams, train: TrainParams, seed: int
) -> dict[str, npt.NDArray[Any]]:
    """Logits of the validation and test parts, and the epoch that they come from."""
    began = time.perf_counter()
    prepared = prepare_variant(bench, variant, model, train)
    fitted, record, best = fit_one(variant.model, model, prepared, train, seed)
    seconds = time.perf_counter() - began
    test = _dataset(bench, variant, prepared.spec, bench.track.test)
    logits = [score_requests(name, fitted, each).astype(np.float64) for each in (prepared.validation, test)]
    validation = prepared.validation.requests
    log.info(
        "%s, seed %d: step %d of %d, validation iAUC %.4f, fitted in %.0f s (%.0f requests/s)",
        name, seed, record[best - 1].step, record[-1].step,
        iauc(logits[0], validation.label, validation.request_of_row), seconds,
        train.batch_requests * record[-1].step / seconds,
    )  # fmt: skip
    return {"validation": logits[0], "test": logits[1], "epoch": np.array(record[best - 1].epoch)}


def prepare_variant(bench: Bench, variant: Variant, model: ModelParams, train: TrainParams) -> Prepared:
    """All train requests of the track, as the variant sees them."""
    spec = replace(bench.track.spec, history_length=model.history_length)
    sets = {name: _dataset(bench, variant, spec, getattr(bench.track, name)) for name in PARTS[:2]}
    requests = sets["train"].requests
    counts = count_items(requests, bench.events, spec.history_length, bench.vocabulary.num_items)
    tables = fit_tables(bench.vocabulary, counts, train.min_item_events, train.min_category_events)
    return Prepared(
        spec=spec,
        cuts=bench.source.cuts,
        sample=Sample(requests, 0, []),
        num_label_unknown=0,
        train=sets["train"],
        validation=sets["validation"],
        tables=tables,
        shape=shape_of(spec, tables, bench.vocabulary, num_scalars=sets["train"].scalars.shape[1]),
    )


def _dataset(bench: Bench, variant: Variant, spec: FeatureSpec, part: Part) -> RequestDataset:
    requests = part.requests if variant.history else replace(part.requests, starts=part.requests.ends)
    scalars = part.scalars if variant.scalars else part.scalars[:, :0]
    return RequestDataset(spec, bench.events, requests, scalars, bench.source.counters)
