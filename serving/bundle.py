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
from training.params import ModelParams

MODEL = "model.json"
NAME = "name"
"""In MODEL: which of the fitted models the bundle holds."""
SPEC = "feature_spec.json"
VOCABULARY = "vocabulary.parquet"
THEMES = "themes.json"
GOLDEN = "golden.json"
METRICS = "metrics.json"
RANKED = "ranked.parquet"
"""The model's AUC within each test request and the number of its user: what promote compares by."""


@dataclass(frozen=True)
class Bundle:
    """What a service needs of a bundle."""

    path: Path
    manifest: Manifest
    scorer: Scorer
    theme_names: list[str]  # none of a model without themes
    measured: dict[str, Any]  # evaluate's report
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
    return Bundle(path, manifest, scorer, theme_names, read_json(path / METRICS), read_golden(path / GOLDEN))


def weights_of(model: str) -> str:
    """The file that holds a model's weights, in the folder `weights` and in a bundle."""
    return f"{model}.safetensors"


def model_of(folder: Path) -> str:
    """Which model a bundle holds. One from before there was a choice holds MoS."""
    return read_json(folder / MODEL).get(NAME, "mos")


def load_scorer(folder: Path) -> Scorer:
    """Weights, vocabulary and feature spec of a folder -> a scorer."""
    spec = FeatureSpec.from_json(read_json(folder / SPEC))
    vocabulary = pq.read_table(folder / VOCABULARY, columns=["item_id", "item_index"])
    index_of = dict(zip(vocabulary["item_id"].to_pylist(), vocabulary["item_index"].to_pylist(), strict=True))
    weights = weights_of(name := model_of(folder))
    description = read_json(folder / MODEL)
    model = load_model(name, folder / weights, description)
    num_rows = len(model.catalogue.row_of_N)
    if max(index_of.values(), default=0) >= num_rows:
        raise InputError(
            f"{folder}: {VOCABULARY} has {len(index_of):,} items and {weights} {num_rows:,} rows. Package again."
        )
    return Scorer.of(model, ModelParams(**description["params"]), spec, index_of)


def read_json(path: Path) -> dict[str, Any]:
    """One JSON object of a bundle. Raises InputError where there is none."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read: {error}. `make run` packages the model anew.") from error
