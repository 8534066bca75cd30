"""A bundle's folder -> a verified model with its vocabulary, feature spec, theme names and golden requests."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq
import torch
from pydantic import TypeAdapter

from contracts.errors import MAX_MESSAGE, InputError, shorten
from contracts.schema import FIRST_INDEX
from features.encoding.encode import FeatureSpec
from serving.bundle.golden import GoldenRequest, read_golden
from serving.bundle.index import (
    CATALOGUE,
    NEIGHBOURS,
    VECTORS,
    ItemIndex,
    check_neighbours,
    read_catalogue,
    read_vectors,
)
from serving.bundle.manifest import AGAIN, Manifest, read_manifest
from serving.bundle.programmed import find_programs_of, open_program_scorer
from serving.bundle.scorer import Scorer

if TYPE_CHECKING:
    from training.model.build import Model

MODEL = "model.json"
NAME = "name"
"""Key in MODEL: name of the bundle's model."""
SPEC = "feature_spec.json"
VOCABULARY = "vocabulary.parquet"
THEMES = "themes.json"
GOLDEN = "golden.json"
METRICS = "metrics.json"
PROFILE = "profile.json"
"""Distribution of the test requests' figures, with which drift is measured. The service does not read it."""


@dataclass(frozen=True)
class Bundle:
    """What a service needs of a bundle."""

    path: Path
    manifest: Manifest
    scorer: Scorer
    theme_names: list[str]  # empty for a model without themes
    measured: dict[str, Any]  # report of evaluate
    golden: list[GoldenRequest]
    index: ItemIndex
    runner_up: str = ""  # the model, where it is the other one of the run (runner_up.py) and not the one served

    @property
    def model(self) -> str:
        """Which of the fitted models answers."""
        return self.runner_up or self.measured.get("served", "mos")

    @property
    def version(self) -> str:
        """What replies call the model."""
        return f"{self.manifest.model_version}{self.runner_up and f'-{self.runner_up}'}"


def open_bundle(path: Path) -> Bundle:
    """As open_weights, but with the programs that LEITMOTIF_PROGRAMS names, if any, in place of the weights."""
    if (programs := find_programs_of(path)) is None:
        return open_weights(path)
    manifest = read_manifest(path)
    with reading(programs):
        scorer = open_program_scorer(
            programs, manifest.bundle_hash, read_json(path / MODEL)["params"], *_read_ids(path)
        )
    return _open(path, manifest, scorer)


def open_weights(path: Path) -> Bundle:
    """Verify every hash and load. Raises InputError that says what is wrong and what to do."""
    return _open(path, read_manifest(path), load_scorer(path))


def _open(path: Path, manifest: Manifest, scorer: Scorer) -> Bundle:
    if scorer.spec.hash() != manifest.feature_spec_hash:
        here, then = scorer.spec.hash()[:12], manifest.feature_spec_hash[:12]
        raise InputError(
            f"{path / SPEC} has hash {here} here and {then} when packaged: "
            "features/encoding/encode.py changed. Train and package again, or serve with the code that packaged it."
        )
    theme_names = _theme_names(path / THEMES, scorer.theme_NT.shape[1])
    with reading(path / GOLDEN):
        golden = read_golden(path / GOLDEN)
        if len(golden) != manifest.num_golden_requests:
            raise ValueError(f"it holds {len(golden):,} requests, but {manifest.num_golden_requests:,} were packaged")
    return Bundle(path, manifest, scorer, theme_names, read_json(path / METRICS), golden, load_index(path, scorer))


def load_index(folder: Path, scorer: Scorer) -> ItemIndex:
    """The index, compared with the weights and the vocabulary. Raises InputError that names the faulty file."""
    with reading(folder / CATALOGUE):
        catalogue = read_catalogue(folder / CATALOGUE, scorer)
    with reading(folder / VECTORS):
        index = ItemIndex.of(scorer, read_vectors(folder / VECTORS, scorer), catalogue)
    with reading(folder / NEIGHBOURS):
        check_neighbours(folder / NEIGHBOURS, index)
    return index


def weights_of(model: str) -> str:
    """The file name of a model's weights, in the folder `weights` and in a bundle."""
    return f"{model}.safetensors"


def model_of(folder: Path) -> str:
    """The name of a bundle's model; bundles of older versions have none and hold MoS."""
    return read_json(folder / MODEL).get(NAME, "mos")


def load_scorer(folder: Path, name: str | None = None) -> Scorer:
    """Load weights, vocabulary and feature spec. name: the model; None: the served one. Raises InputError."""
    from training.model.build import load_model
    from training.model.params import ModelParams
    from training.model.shape import ModelShape

    spec, index_of = _read_ids(folder)
    description = read_json(folder / MODEL)
    with reading(folder / MODEL):
        params = ModelParams(**description["params"])
        TypeAdapter(ModelShape).validate_json(json.dumps(description["shape"]), strict=True)
    weights = weights_of(name := name or model_of(folder))
    with reading(folder / weights):
        model = load_model(name, folder / weights, description)
        _require_finite(model)
        num_rows = len(model.catalogue.row_of_N)
        if max(index_of.values(), default=0) >= num_rows:
            raise InputError(
                f"{folder}: {VOCABULARY} has {len(index_of):,} items and {weights} {num_rows:,} rows. Package again."
            )
        return Scorer.of(model, params, spec, index_of)


def _read_ids(folder: Path) -> tuple[FeatureSpec, dict[str, int]]:
    with reading(folder / SPEC):
        spec = FeatureSpec.from_json(read_json(folder / SPEC))
    with reading(folder / VOCABULARY):
        return spec, _index_of(folder / VOCABULARY)


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object of a bundle. Raises InputError if it is missing or invalid."""
    with reading(path):
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise ValueError("it holds no JSON object")
        return content


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Convert any error of reading a damaged file to an InputError that names the file."""
    try:
        yield
    except InputError as error:
        said = shorten(" ".join(str(error).split()), 2 * MAX_MESSAGE)  # torch lists every tensor on its own line
        raise InputError(said if path.name in said else f"{path}: {said}") from error
    except Exception as error:  # Arrow, safetensors, torch, json and pydantic raise different errors
        said = " ".join(f"{type(error).__name__}: {error}".split())
        raise InputError(f"{path} cannot be read: {shorten(said, MAX_MESSAGE)}. {AGAIN}") from error


def _index_of(path: Path) -> dict[str, int]:
    table = pq.read_table(path, columns=["item_id", "item_index"])
    item_ids, indices = table["item_id"].to_pylist(), table["item_index"].to_pylist()
    if not all(isinstance(item_id, str) for item_id in item_ids) or len(set(item_ids)) < len(item_ids):
        raise ValueError("item_id is not a distinct text in every row")
    if not all(isinstance(index, int) and index >= FIRST_INDEX for index in indices):
        raise ValueError(f"item_index is not a whole number from {FIRST_INDEX} on in every row")
    return dict(zip(item_ids, indices, strict=True))


def _theme_names(path: Path, num_themes: int) -> list[str]:
    content = read_json(path)
    with reading(path):
        names = [theme["name"] for theme in content["themes"]]
        if len(names) != num_themes or not all(isinstance(name, str) for name in names):
            raise ValueError(f"it does not name {num_themes:,} themes")
        return names


def _require_finite(model: "Model") -> None:
    """Raises ValueError for NaN or infinite weights, whose items golden requests may not contain."""
    for name, value in model.state_dict().items():
        if value.is_floating_point() and not torch.isfinite(value).all():
            raise ValueError(f"{name} has values that are not finite numbers")
