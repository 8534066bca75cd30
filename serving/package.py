"""Weights, vocabulary, verdict and test requests -> bundle/: everything that a service needs, with hashes.

A model that failed its verdict, or whose scores here differ from those of evaluate, is refused.
"""

import logging
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch

from contracts.errors import CheckFailed, InputError
from contracts.files import hash_file
from contracts.publish import publish, write_json
from contracts.stage import Report, main
from features.encoding.asked import Asked, recent_clicks
from features.encoding.counters import Counters
from features.encoding.item_codes import item_codes
from features.encoding.scalars import scalars_of_one
from features.online.replay import replaying
from features.online.store import OnlineStore
from features.terms.convention import RECENT
from serving.bundle.card import write_card, write_dictionary
from serving.bundle.golden import (
    FLIP_LIMIT,
    TOLERANCE,
    GoldenRequest,
    check_golden,
    count_flipped,
    differences,
    near_tie,
    window,
    write_golden,
)
from serving.bundle.index import write_index
from serving.bundle.loaded import (
    GOLDEN,
    METRICS,
    MODEL,
    NAME,
    PROFILE,
    SPEC,
    THEMES,
    VOCABULARY,
    load_scorer,
    open_weights,
    read_json,
    weights_of,
)
from serving.bundle.logged import LoggedRequest, RequestLog
from serving.bundle.manifest import hash_folder, write_manifest
from serving.bundle.reading import read_codes, read_events, read_scalars
from serving.bundle.runner_up import copy_runner_up, open_runner_up, write_runner_up
from serving.bundle.scorer import NO_EVENTS, Scorer
from serving.bundle.themes import name_themes
from serving.params import ServeParams
from training.model.build import GRAPH_MODELS

log = logging.getLogger("leitmotif")

TRAINING_DATA = ("user_histories", "impressions", "item_counters", "user_counters", "user_item_counters", "coclicks")
PROFILES = "item_profile.parquet"
CODE = (
    "contracts/schema.py",
    "features/terms/convention.py",
    "features/terms/slices.py",
    "features/encoding/*.py",
    "training/model/**/*.py",
    "serving/bundle/scorer.py",
)
"""The code that determines scores. Only modules that this one imports, so that they are among the stage's deps."""


def run(data: Path, serve: ServeParams) -> Report:
    """Write the bundle. Raises CheckFailed if the verdict failed or scores differ from those of evaluate."""
    torch.set_num_threads(serve.num_threads)
    metrics = read_json(data / "metrics" / "verdict.json")
    _require_verdict(metrics)
    snapshot = read_json(data / "feature_snapshot" / "snapshot.json")
    with publish(data, "bundle") as staging:
        bundle = staging / "bundle"
        _copy_model(data, bundle, metrics["served"])
        scorer = load_scorer(bundle)
        vocabulary = pq.read_table(bundle / VOCABULARY)
        requests = RequestLog.open(data)
        _require_short_ids(requests, serve.max_id_length)
        counters = Counters.from_folder(data, requests.item_ids, requests.histories.user_ids)
        codes = item_codes(scorer.spec, counters, np.arange(len(vocabulary)), snapshot["log_end_us"])
        write_json(bundle / THEMES, {"themes": name_themes(scorer, vocabulary, codes)})
        write_index(bundle, scorer, pq.read_table(data / "feature_snapshot" / PROFILES))
        temporary = staging / f"replay-{os.getpid()}"
        served, num = metrics["served"], serve.num_golden_requests
        golden = golden_requests(data, requests, counters, scorer, served, num, temporary)
        write_golden(bundle / GOLDEN, golden)
        _add_runner_up(data, bundle, served, golden, codes)
        write_json(bundle / METRICS, metrics)
        shutil.copyfile(data / "metrics" / PROFILE, bundle / PROFILE)
        write_card(bundle, data.name, scorer, metrics, serve)
        write_dictionary(bundle, scorer.spec)
        manifest = write_manifest(
            bundle,
            source=data.name,
            feature_spec_hash=scorer.spec.hash(),
            log=snapshot.get("log"),
            snapshot_id=snapshot["snapshot_id"],
            num_golden_requests=len(golden),
            limits=serve.model_dump(mode="json"),
            training_data={name: hash_folder(data / name) for name in TRAINING_DATA},
            code=_hash_code(),
        )
        reopened = open_weights(bundle)
        for each in (reopened, open_runner_up(reopened)):
            if each is not None:
                check_golden(each.scorer, each.golden)
    log.info("bundle %s with %d golden requests", manifest.model_version, len(golden))
    return {
        "served": metrics["served"],
        "verdict": metrics["verdict"]["state"],
        "bundle_hash": manifest.bundle_hash,
        "feature_spec_hash": manifest.feature_spec_hash,
        "num_golden_requests": len(golden),
        "model_version": manifest.model_version,
        "num_items": len(vocabulary),
        "bundle_bytes": sum(path.stat().st_size for path in (data / "bundle").iterdir()),
    }


def golden_requests(
    data: Path, requests: RequestLog, counters: Counters, scorer: Scorer, served: str, num: int, temporary: Path
) -> list[GoldenRequest]:
    """Evenly spaced test requests with their scores.

    Raises CheckFailed unless evaluate scored them the same, and a temporary online store into which the log is replayed
    up to each request's time gives the same scores.
    """
    index_B, evaluated_B = _evaluated(data, served)
    logged = list(requests.read(_spread(index_B, num)))
    golden, snapshot = [], read_json(data / "feature_snapshot" / "snapshot.json")
    flipped: list[float] = []
    with replaying(data, snapshot, logged[0].at, temporary, counters) as replay:
        for request in logged:
            golden.append(_golden(request, requests, scorer, counters))
            flipped += _require_same(scorer, golden[-1], evaluated_B[index_B == request.index])
            replay.upto(request.at)
            _require_online(request, golden[-1], scorer, replay.store)
    count_flipped(flipped, sum(len(each.logits) for each in golden))
    log.info("%d golden requests score the same from the log and from %s replayed live events", len(golden), replay.fed)
    return golden


def _evaluated(data: Path, name: str) -> tuple[np.ndarray, np.ndarray]:
    """(request, score) of each candidate that evaluate scored by a model."""
    predictions = pq.read_table(data / "predictions", columns=["request_index", name])
    if not len(predictions):
        raise InputError(f"{data / 'predictions'} holds no test request: none can be golden. Move split.test earlier.")
    return predictions["request_index"].to_numpy(), predictions[name].to_numpy()


def _spread(index_B: np.ndarray, num: int) -> np.ndarray:
    """The golden ones of the requests: at even distances."""
    distinct = np.unique(index_B)
    return distinct[np.linspace(0, len(distinct) - 1, min(num, len(distinct))).round().astype(np.int64)]


def _add_runner_up(data: Path, bundle: Path, served: str, golden: list[GoldenRequest], codes: np.ndarray) -> None:
    """The run's other model. Raises CheckFailed where it scores golden requests otherwise than evaluate did."""
    name = next(each for each in GRAPH_MODELS if each != served)
    scorer = copy_runner_up(data / "weights", bundle, name)
    scored = write_runner_up(bundle, name, scorer, golden, pq.read_table(bundle / VOCABULARY), codes)
    index_B, evaluated_B = _evaluated(data, name)
    flipped: list[float] = []
    for each, index in zip(scored, _spread(index_B, len(scored)), strict=True):
        flipped += _require_same(scorer, each, evaluated_B[index_B == index])
    count_flipped(flipped, sum(len(each.logits) for each in scored))


def _golden(request: LoggedRequest, requests: RequestLog, scorer: Scorer, counters: Counters) -> GoldenRequest:
    known = scorer.newest_events(request.events, request.at, RECENT)
    clicks = recent_clicks(requests.item_keys(known.item_ids), known.label)
    reading = requests.item_keys([request.context.reading_item_id])[0]
    asked = Asked.of_one(request.user_key, request.at, clicks, reading, request.context)
    scalars = scalars_of_one(scorer.spec, counters, requests.item_keys(request.candidates), asked)
    kept = window(scorer, request.events, request.at)
    newest = scorer.newest_events(kept, request.at, scorer.spec.history_length)
    codes, of_candidates = (
        item_codes(scorer.spec, counters, requests.item_keys(item_ids), request.at)
        for item_ids in (newest.item_ids, request.candidates)
    )
    state = scorer.user_side(kept, request.at, codes)
    scores = scorer.score(state, scorer.item_index(request.candidates), scalars, of_candidates)
    return GoldenRequest(
        request=request.name,
        user_id=request.user_id,
        at=request.at,
        item_ids=list(kept.item_ids),
        occurred_at=kept.occurred_at.tolist(),
        labels=kept.label.tolist(),
        sessions=kept.session.tolist(),
        candidates=list(request.candidates),
        scalars=scalars.tolist(),
        event_codes=codes.tolist(),
        candidate_codes=of_candidates.tolist(),
        logits=scores.logit_M.tolist(),
    )


def _copy_model(data: Path, bundle: Path, served: str) -> None:
    description: dict[str, Any] = {**read_json(data / "weights" / "model.json"), NAME: served}
    shutil.copyfile(data / "weights" / weights_of(served), bundle / weights_of(served))
    shutil.copyfile(data / "user_histories" / VOCABULARY, bundle / VOCABULARY)
    write_json(bundle / MODEL, description)
    write_json(bundle / SPEC, description["feature_spec"])


def _require_verdict(metrics: dict[str, Any]) -> None:
    """Refuse a model that failed its verdict. A model that was not judged is packaged with a warning."""
    verdict = metrics["verdict"]
    if verdict["state"] == "not judged":
        log.warning("the model was not judged: %s", "; ".join(verdict["reasons"]))
    elif verdict["state"] != "passed":
        raise CheckFailed(
            f"The model failed its rules, so it is not packaged: {'; '.join(verdict['reasons'])}. "
            "More history, more epochs or other features may help; to package it anyway, change the rule in the "
            "section evaluate of params.yaml. The figures are in evaluate's report."
        )


def _require_short_ids(requests: RequestLog, most: int) -> None:
    """Raise InputError if ids of the log are longer than the service accepts."""
    for what, ids in (("user", requests.histories.user_ids), ("item", requests.item_ids)):
        longest = pc.max(pc.utf8_length(ids)).as_py() or 0  # pyright: ignore[reportAttributeAccessIssue]
        if longest > most:
            raise InputError(
                f"The log has {what} ids of up to {longest:,} characters, but serve.max_id_length is {most:,}: the "
                f"service would refuse these. `make set ARGS=serve.max_id_length={longest}` allows them."
            )


def _require_online(request: LoggedRequest, golden: GoldenRequest, scorer: Scorer, store: OnlineStore) -> None:
    """Raise CheckFailed unless the replayed store gives the same logits, bit by bit."""
    events = read_events(store, request.user_id)
    scalars = read_scalars(scorer, store, request.user_id, events, golden.candidates, request.at, request.context)
    codes, of_candidates = read_codes(scorer, store, events, golden.candidates, request.at)
    state = scorer.user_side(events or NO_EVENTS, request.at, codes)
    logits = scorer.score(state, scorer.item_index(golden.candidates), scalars, of_candidates).logit_M.tolist()
    if logits != golden.logits:
        raise CheckFailed(
            f"User {request.user_id!r}, request {request.name!r}: the logits are {logits} from an online store into "
            f"which the log was replayed, but {golden.logits} from the log's tables. `dvc repro materialize` names the "
            "feature that differs; if none does, it is a bug."
        )


def _require_same(scorer: Scorer, golden: GoldenRequest, evaluated: np.ndarray) -> list[float]:
    """Compare with evaluate's scores, whose batches round differently. Returns differences explained by near ties."""
    logits = np.array(golden.logits)
    off = differences(logits, evaluated)
    jumped = ~(off <= TOLERANCE)
    if (jumped & ~(near_tie(scorer, golden) & (off <= FLIP_LIMIT))).any():
        raise CheckFailed(
            f"Request {golden.request!r} scores {golden.logits} by the bundle and {evaluated.tolist()} by evaluate: "
            "serving and training read the request differently. `dvc repro package`; if it persists, it is a bug."
        )
    return np.abs(logits - evaluated)[jumped].tolist()


def _hash_code() -> dict[str, str]:
    root = Path(__file__).resolve().parent.parent
    paths = sorted({path for pattern in CODE for path in root.glob(pattern)})
    return {path.relative_to(root).as_posix(): hash_file(path) for path in paths}


if __name__ == "__main__":
    main(run)
