"""Real bundles that differ in what a test needs: other weights, another vocabulary, each reproducing its own scores."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import torch
from safetensors.torch import load_file, save_file

from features.encoding.encode import FeatureSpec
from serving.bundle.golden import read_golden, write_golden
from serving.bundle.index import CATALOGUE, write_index
from serving.bundle.loaded import GOLDEN, METRICS, MODEL, SPEC, VOCABULARY, load_scorer, model_of, weights_of
from serving.bundle.manifest import MANIFEST, write_manifest
from serving.bundle.runner_up import LOGITS, NAME, RUNNER_UP

Weights = dict[str, torch.Tensor]


def rehash(bundle: Path, **changes: Any) -> Path:
    """The bundle with a manifest of its current files."""
    described = json.loads((bundle / MANIFEST).read_text()) | changes
    (bundle / MANIFEST).unlink()
    write_manifest(bundle, **{key: described[key] for key in described.keys() - {"format", "files", "bundle_hash"}})
    return bundle


def rewritten(bundle: Path, target: Path, change: Callable[[Weights], None]) -> Path:
    """A copy with other weights and golden requests rescored by them."""
    shutil.copytree(bundle, target, copy_function=shutil.copyfile)
    path = target / weights_of(model_of(target))
    weights = load_file(path)
    change(weights)
    save_file(dict(sorted(weights.items())), path)
    return rescored(target)


def rescored(bundle: Path) -> Path:
    """The bundle with index, golden scores and manifest recomputed from its current files."""
    scorer = load_scorer(bundle)
    write_index(bundle, scorer, pq.read_table(bundle / CATALOGUE))
    golden = [replace(each, logits=each.rescore(scorer)) for each in read_golden(bundle / GOLDEN)]
    write_golden(bundle / GOLDEN, golden)
    told = json.loads((bundle / RUNNER_UP).read_text())
    other = load_scorer(bundle, told[NAME])
    (bundle / RUNNER_UP).write_text(json.dumps(told | {LOGITS: [each.rescore(other) for each in golden]}))
    return rehash(bundle)


def reversed_head(weights: Weights) -> None:
    """A certainly worse model: it reverses the order of items."""
    last = max(name for name in weights if name.startswith("head.layers.") and name.endswith(".weight"))
    weights[last] = -weights[last]


def noisy(scale: float) -> Callable[[Weights], None]:
    """A model that is a little off: normal noise on the embeddings of items."""

    def change(weights: Weights) -> None:
        generator = torch.Generator().manual_seed(3)
        table = weights["items.item.weight"]
        weights["items.item.weight"] = table + scale * torch.randn(table.shape, generator=generator)

    return change


def without_items(bundle: Path, target: Path, gone: Callable[[str], bool]) -> Path:
    """A copy whose vocabulary lacks some items, as if trained before they existed."""
    shutil.copytree(bundle, target, copy_function=shutil.copyfile)
    table = pq.read_table(target / VOCABULARY)
    kept = [not gone(item_id) for item_id in table["item_id"].to_pylist()]
    pq.write_table(table.filter(kept), target / VOCABULARY)
    return rescored(target)


def of_spec(bundle: Path, target: Path, **changes: Any) -> Path:
    """A copy that says it was trained on other features, none of which its golden requests show."""
    shutil.copytree(bundle, target, copy_function=shutil.copyfile)
    spec = json.loads((target / SPEC).read_text()) | changes
    (target / SPEC).write_text(json.dumps(spec))
    return rehash(target, feature_spec_hash=FeatureSpec.from_json(spec).hash())


def judged(bundle: Path, state: str = "passed", **model: Any) -> Path:
    """In place: another verdict, and other entries of model.json."""
    metrics = json.loads((bundle / METRICS).read_text())
    metrics["verdict"] = {"state": state, "passed": state == "passed", "reasons": ["27 of 5,153 requests"]}
    (bundle / METRICS).write_text(json.dumps(metrics))
    description = json.loads((bundle / MODEL).read_text()) | model
    (bundle / MODEL).write_text(json.dumps(description))
    return rehash(bundle)
