"""Weights and the requests after split.test -> metrics beside every baseline, slices, predictions and a verdict.

Reads the inputs of train, the weights, truth and feature_snapshot/parity.json; writes metrics and predictions. The
model to serve is chosen on the validation part, not here. The verdict stands in the report and in
metrics/verdict.json; a failed verdict does not fail this stage, but package refuses it. CPU times stand in the report
only, because they differ from run to run.
"""

import hashlib
import json
import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from contracts.errors import CheckFailed, InputError
from contracts.publish import publish, write_json
from contracts.schema import FIRST_INDEX, UNKNOWN_INDEX
from contracts.stage import Report, main
from features.encoding.encode import FeatureSpec
from features.encoding.item_codes import item_codes
from features.terms.convention import is_click
from features.terms.params import LabelParams, SplitParams
from training.judging.collapse import collapse_warnings, theme_use
from training.judging.cost import cost_of, cpu_ms
from training.judging.measure import (
    Scored,
    bootstrap,
    differences,
    intervals,
    measure,
    measure_slices,
    rankable,
)
from training.judging.off_policy import off_policy
from training.judging.profile import profile
from training.judging.scoring import score_requests
from training.judging.simple import score_baselines, score_simple
from training.judging.slices import NO_THEME, cold_users, requests_since_shift, slice_masks, true_item_themes
from training.judging.standing import CANDIDATE, choose, standing, warnings
from training.judging.tables import plain, write_metrics, write_predictions
from training.judging.verdict import judge
from training.metrics import normalised_mutual_information, sigmoid
from training.model.build import GRAPH_MODELS, Model, load_model
from training.model.params import EvaluateParams, ModelParams
from training.model.shape import ModelShape
from training.requests.batches import RequestDataset, make_dataset
from training.requests.catalogue import Vocabulary, load_counters, load_vocabulary
from training.requests.reader import (
    Events,
    Requests,
    cut_times,
    iso,
    load_bare_requests,
    load_events,
    log_end,
    with_candidates,
)

log = logging.getLogger("leitmotif")

PROFILE = "profile.json"


@dataclass(frozen=True)
class Tested:
    """The test part and every model's scores of it."""

    events: Events
    requests: Requests
    num_label_unknown: int  # requests at the log's end, excluded because their clicks are not known yet
    since_shift: npt.NDArray[np.int64]  # [R]
    cold_user: npt.NDArray[np.bool_]  # [R]
    dataset: RequestDataset
    models: dict[str, Model]
    scored: dict[str, Scored]
    code_NF: npt.NDArray[np.float32]  # co-click code of every item, as of the log's end


def run(data: Path, evaluate: EvaluateParams, labels: LabelParams, seed: int, split: SplitParams) -> Report:
    """Raises InputError where the weights were fitted on the test part, CheckFailed where a score is not finite."""
    description = json.loads((data / "weights" / "model.json").read_text(encoding="utf-8"))
    torch.set_num_threads(description["num_threads"])
    vocabulary = load_vocabulary(data)
    tested = score_all(data, vocabulary, description, split, labels, evaluate)
    requests, scored, mos = tested.requests, tested.scored, tested.models["mos"]
    if "validation" not in description:
        raise InputError(
            f"{data / 'weights'} has no validation figures: an older version wrote it. Run train again (`dvc repro`)."
        )
    served, because = choose(description["validation"], evaluate.serve)
    masks = slice_masks(
        requests,
        tested.since_shift,
        mos.catalogue.row_of_N.numpy(),
        tested.cold_user,
        description.get("min_history"),
    )
    pairs = [(served, name) for name in scored if name != served]
    report = plain(
        count(requests)
        | {
            "num_requests_label_unknown": tested.num_label_unknown,
            "theme_recovery_nmi": theme_recovery(data, vocabulary, mos),
            "slices": measure_slices(scored, requests, masks, pairs, evaluate.num_bootstrap, seed),
            "test_data_hash": hash_test(requests),
            "ndcg_at": evaluate.ndcg_at,
            "costs": costs(tested, description),
            "off_policy": off_policy(data, requests, scored, evaluate.num_bootstrap, seed),
        }
        | compare(tested, served, because, _parity(data), evaluate, seed)
    )
    with publish(data, "metrics", "predictions") as staging:
        write_metrics(staging / "metrics", report, requests, tested.since_shift, scored)
        write_json(staging / "metrics" / PROFILE, profile(figures(tested, scored[served]), len(requests)))
        predicted = [*tested.models, "popularity"]
        write_predictions(staging / "predictions" / "predictions.parquet", requests, scored, predicted)
    for sentence in (*report["standing"], *report["warnings"]):
        log.info("%s", sentence)
    return report | {"cpu_ms": {name: cpu_ms(model, tested.dataset) for name, model in tested.models.items()}}


def count(requests: Requests) -> dict[str, Any]:
    """The size of the test part, and how much of it can be ranked."""
    ranked = rankable(requests)
    return {
        "num_requests": len(requests),
        "num_impressions": len(requests.label),
        "num_users": len(np.unique(requests.user_index)),
        "num_requests_ranked": int(ranked.sum()),
        "num_users_ranked": len(np.unique(requests.user_index[ranked])),
        "num_requests_of_one_class": int((~ranked).sum()),
        "click_share": float(is_click(requests.label).mean()) if len(requests) else math.nan,
    }


def figures(tested: Tested, served: Scored) -> dict[str, npt.NDArray[Any]]:
    """The figures that drift is watched on: scalars and score of each candidate; history and length of each request."""
    requests, events, spec = tested.requests, tested.events, tested.dataset.spec
    known = requests.num_events > 0
    newest = events.occurred_at[requests.ends[known] - 1]
    return {
        "score": served.probability,
        "history_length": np.minimum(requests.num_events, spec.history_length),  # online stores keep no more
        "history_age_h": (requests.at[known] - newest) / 3.6e9,
        "candidates": np.diff(requests.row_starts),
        **{name: tested.dataset.scalars[:, place] for place, name in enumerate(spec.scalars)},
    }


def compare(
    tested: Tested,
    served: str,
    because: str,
    parity: Mapping[str, Any] | None,
    evaluate: EvaluateParams,
    seed: int,
) -> dict[str, Any]:
    """Figures of every model, differences of the served model and MoS to the others, sentences on both, the verdict."""
    requests, scored = tested.requests, tested.scored
    drawn = bootstrap(scored, requests, evaluate.num_bootstrap, seed, evaluate.ndcg_at)
    models = {
        name: measure(values, requests, evaluate.ndcg_at) | intervals(drawn[name]) for name, values in scored.items()
    }
    pairs = [(first, name) for first in dict.fromkeys((CANDIDATE, served)) for name in scored if name != first]
    between = differences(drawn, pairs)
    test = count(requests)
    sentences = warnings(served, models, between) if test["num_requests_ranked"] else []
    mos = tested.models["mos"]
    use = theme_use(mos, tested.events.item_index, tested.code_NF) if mos.has_router else None
    return {
        "served": served,
        "models": models,
        "differences": between,
        "themes": use,
        "warnings": sentences + (collapse_warnings(use) if use and served == CANDIDATE else []),
        "standing": standing(served, because, models, between, test),
        "verdict": judge(served, models, between, test, parity, evaluate),
    }


def score_all(
    data: Path,
    vocabulary: Vocabulary,
    description: dict[str, Any],
    split: SplitParams,
    labels: LabelParams,
    evaluate: EvaluateParams,
) -> Tested:
    """Score the test part with every model and baseline."""
    spec = FeatureSpec.from_json(description["feature_spec"])
    events = load_events(data)
    requests = load_bare_requests(data, events)
    cuts = cut_times(split, labels, requests.at, log_end(requests, events))
    if vocabulary.num_items != (known := description["shape"]["num_items"]):
        raise InputError(
            f"The log's item table has {vocabulary.num_items:,} rows and the one that the weights were trained on "
            f"{known:,}: they are of another log. Run train again (`dvc repro`)."
        )
    if description["chosen_before_us"] > cuts.test_at:
        raise InputError(
            f"The weights were chosen on requests up to {iso(description['chosen_before_us'])}, but split.test is "
            f"{iso(cuts.test_at)}: the test would not be new to them. Run train again (`dvc repro`)."
        )
    test, validation = (with_candidates(data, cuts.part(requests, name)) for name in ("test", "validation"))
    in_test = cuts.holds(requests, "test")
    counters = load_counters(data, vocabulary)
    dataset = make_dataset(spec, events, test, counters)
    models = {name: load_model(name, data / "weights" / f"{name}.safetensors", description) for name in GRAPH_MODELS}
    logits = {name: score_requests(name, model, dataset) for name, model in models.items()}
    for name, values in logits.items():
        require_scores(name, values)
    scored = {name: Scored(values, sigmoid(values)) for name, values in logits.items()}
    scored |= score_baselines(test, validation, counters, spec, evaluate)
    scored |= score_simple(data, cuts, requests, events, counters, spec, dataset.scalars, description["num_threads"])
    return Tested(
        events=events,
        requests=test,
        num_label_unknown=cuts.num_label_unknown(requests, "test"),
        since_shift=requests_since_shift(data, requests, spec.session_gap_s)[in_test],
        cold_user=cold_users(events, test, description["trained_before_us"]),
        dataset=dataset,
        models=models,
        scored=scored,
        code_NF=item_codes(spec, counters, np.arange(vocabulary.num_items) - FIRST_INDEX, cuts.log_end),
    )


def costs(tested: Tested, description: dict[str, Any]) -> dict[str, Any]:
    """The cost of one request for each fitted model and for the logistic regression."""
    params, shape = ModelParams(**description["params"]), ModelShape(**description["shape"])
    cost_of_model = {name: cost_of(name, model, params, shape, tested.dataset) for name, model in tested.models.items()}
    candidates, num_scalars = cost_of_model[CANDIDATE]["candidates"], shape.num_scalars
    flops = None if candidates is None else 2 * candidates * num_scalars
    return cost_of_model | {"logistic": {"parameters": num_scalars + 1, "flops": flops, "candidates": candidates}}


def require_scores(name: str, logits: npt.NDArray[np.floating]) -> None:
    """Raises CheckFailed if a score is NaN or infinite: sorting would rank it like any other."""
    num_bad = int((~np.isfinite(logits)).sum())
    if num_bad:
        raise CheckFailed(
            f"{name} gives {num_bad:,} of {len(logits):,} candidates a score that is not finite (NaN or infinite), so "
            "it cannot be measured. Its weights are damaged: run train again (`dvc repro -f train`); if that does not "
            "help, lower train.learning_rate."
        )


def theme_recovery(data: Path, vocabulary: Vocabulary, model: Model) -> float:
    """Normalised mutual information of an item's top theme and its true one; nan where the source has no truth."""
    truth = true_item_themes(data, vocabulary.item_ids)
    if truth is None or not model.has_router:
        return math.nan
    with torch.inference_mode():
        routed = model.tables().routing_NT[FIRST_INDEX:].argmax(dim=1).numpy()
    trained = model.catalogue.row_of_N[FIRST_INDEX:].numpy() != UNKNOWN_INDEX
    trained &= truth != NO_THEME
    return normalised_mutual_information(routed[trained], truth[trained]) if trained.any() else math.nan


def hash_test(requests: Requests) -> str:
    """A hash of the test part, independent of the model: figures with equal hashes are of the same requests."""
    digest = hashlib.sha256()
    for column, kind in (
        (requests.request_of_row, np.int64),
        (requests.item_index, np.int64),
        (requests.label, np.float32),
    ):
        digest.update(np.ascontiguousarray(column, kind).tobytes())
    digest.update(np.ascontiguousarray(requests.at, np.int64).tobytes())
    return digest.hexdigest()


def _parity(data: Path) -> dict[str, Any] | None:
    path = data / "feature_snapshot" / "parity.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


if __name__ == "__main__":
    main(run)
