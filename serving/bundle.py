"""A bundle's folder -> a checked, loaded model with its vocabulary, feature spec, theme names and golden requests."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from contracts.errors import InputError
from features.encode import FeatureSpec
from serving.golden import GoldenRequest, read_golden
from serving.manifest import Manifest, read_manifest
from serving.scorer import Scorer
from training.model.build import load_model
from training.model.mixture import MixtureOfSequence

WEIGHTS = "mos.safetensors"
MODEL = "model.json"
SPEC = "feature_spec.json"
VOCABULARY = "vocabulary.parquet"
THEMES = "themes.json"
GOLDEN = "golden.json"
METRICS = "metrics.json"


@dataclass(frozen=True)
class Bundle:
    """What a service needs of a bundle."""

    path: Path
    manifest: Manifest
    scorer: Scorer
    theme_names: list[str]
    golden: list[GoldenRequest]


def open_bundle(path: Path) -> Bundle:
    """Check every hash and load. Raises InputError saying what does not fit and what to do."""
    manifest = read_manifest(path)
    scorer = load_scorer(path)
    if scorer.spec.hash() != manifest.feature_spec_hash:
        here, then = scorer.spec.hash()[:12], manifest.feature_spec_hash[:12]
        raise InputError(
            f"{path / SPEC} has hash {here} here and {then} when packaged: "
            "features/encode.py changed. Train and package again, or serve with the code that made the bundle."
        )
    theme_names = [theme["name"] for theme in read_json(path / THEMES)["themes"]]
    return Bundle(path, manifest, scorer, theme_names, read_golden(path / GOLDEN))


def load_scorer(folder: Path) -> Scorer:
    """Weights, vocabulary and feature spec of a folder -> a scorer."""
    spec = FeatureSpec.from_json(read_json(folder / SPEC))
    vocabulary = pq.read_table(folder / VOCABULARY, columns=["item_id", "item_index"])
    index_of = dict(zip(vocabulary["item_id"].to_pylist(), vocabulary["item_index"].to_pylist(), strict=True))
    model = load_model("mos", folder / WEIGHTS, read_json(folder / MODEL))
    assert isinstance(model, MixtureOfSequence)
    num_rows = len(model.catalogue.row_of_N)
    if max(index_of.values(), default=0) >= num_rows:
        raise InputError(
            f"{folder}: {VOCABULARY} has {len(index_of):,} items and {WEIGHTS} {num_rows:,} rows. Package again."
        )
    return Scorer.of(model, spec, index_of)


def read_json(path: Path) -> dict[str, Any]:
    """One JSON object of a bundle. Raises InputError where there is none."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read: {error}. `make run` packages the model anew.") from error
