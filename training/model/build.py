"""Parameters and a shape -> a model; a model <-> its two files: <name>.safetensors and the model.json beside it."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from contracts.errors import InputError
from training.model.alone import BackboneAlone
from training.model.mixture import MixtureOfSequence
from training.model.params import ModelParams
from training.model.peers.chunks import GapChunks
from training.model.peers.experts import KINDS, MixtureOfExperts
from training.model.ranker import Ranker
from training.model.shape import ModelShape

Model = Ranker
ALONE = ("din", "twin", "sdim", "sasrec", "hstu", "stca")
"""Backbones, each a model by itself."""
PEERS = ("gap_chunk", *KINDS)
"""What a mixture of sequences is compared with, over model.backbone."""
MODELS = ("mos", *ALONE, *PEERS)
GRAPH_MODELS = ("mos", "din")
"""What the stages train and evaluate fit and measure; benchmarks build the others too."""


def build(name: str, params: ModelParams, shape: ModelShape) -> Model:
    """A model with drawn weights; its catalogue knows no item and its scalars are not standardised yet."""
    if params.num_candidate_themes > params.num_themes:
        raise InputError(
            f"model.num_candidate_themes is {params.num_candidate_themes} and model.num_themes {params.num_themes}: "
            "a candidate cannot read more themes than there are. Lower the first."
        )
    if name == "mos":
        return MixtureOfSequence(params, shape)
    if name == "gap_chunk":
        return GapChunks(params, shape)
    return MixtureOfExperts(params, shape, name) if name in KINDS else BackboneAlone(params, shape, name)


def fit_buffers(
    model: Model, row_of_item: np.ndarray, item_categories: np.ndarray, mean: np.ndarray, scale: np.ndarray
) -> None:
    """Put what was counted on the train part into the model's buffers.

    row_of_item: [N] row of the item tables. item_categories: [N, G], 0 where an item has fewer.
    mean, scale: [S] of the scalar features; scale positive.
    """
    with torch.no_grad():
        model.catalogue.row_of_N.copy_(torch.from_numpy(row_of_item))
        model.catalogue.category_NG.copy_(torch.from_numpy(item_categories))
        model.head.mean_S.copy_(torch.from_numpy(mean))
        model.head.scale_S.copy_(torch.from_numpy(scale))


def save_weights(model: Model, path: Path) -> None:
    """All parameters and buffers; the same bytes for the same weights."""
    save_file({name: value.detach().contiguous() for name, value in sorted(model.state_dict().items())}, path)


def load_model(name: str, weights: Path, description: dict[str, Any]) -> Model:
    """A model ready to score.

    description: what model.json holds; `params` and `shape` are read.
    """
    model = build(name, ModelParams(**description["params"]), ModelShape(**description["shape"]))
    try:
        model.load_state_dict(load_file(weights))
    except (OSError, RuntimeError) as error:
        raise InputError(
            f"{weights} does not fit the model that model.json describes: {error}. Train again."
        ) from error
    return model.eval().requires_grad_(False)


def describe(params: ModelParams, shape: ModelShape) -> dict[str, Any]:
    """What load_model needs beside the weights, as JSON values."""
    return {"params": params.model_dump(mode="json"), "shape": asdict(shape)}
