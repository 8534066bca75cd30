"""Params and a shape -> a model; a model <-> its two files, <name>.safetensors and model.json."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
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
"""Backbones that are also models by themselves."""
PEERS = ("gap_chunk", *KINDS)
"""Other mixtures over model.backbone, for comparison."""
MODELS = ("mos", *ALONE, *PEERS)
GRAPH_MODELS = ("mos", "din")
"""The models that the stages train and evaluate use; benchmarks build the others too."""


def build(name: str, params: ModelParams, shape: ModelShape) -> Model:
    """A model with random weights; its catalogue is empty and its scalars are not standardised yet (fit_buffers)."""
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
    """Fill the model's buffers with the statistics of the train part.

    row_of_item: [N] row of the item tables. item_categories: [N, G], 0 where an item has fewer.
    mean, scale: [S] of the scalar features; scale positive.
    """
    with torch.no_grad():
        model.catalogue.row_of_N.copy_(torch.from_numpy(row_of_item))
        model.catalogue.category_NG.copy_(torch.from_numpy(item_categories))
        model.head.mean_S.copy_(torch.from_numpy(mean))
        model.head.scale_S.copy_(torch.from_numpy(scale))


def save_weights(model: Model, path: Path) -> None:
    """Write all parameters and buffers; equal weights give equal bytes."""
    save_file({name: value.detach().contiguous() for name, value in sorted(model.state_dict().items())}, path)


def load_model(name: str, weights: Path, description: dict[str, Any]) -> Model:
    """A model ready to score.

    description: the content of model.json; `params` and `shape` are read.
    """
    model = build(name, ModelParams(**description["params"]), ModelShape(**description["shape"]))
    try:
        model.load_state_dict(load_file(weights))
    except (OSError, RuntimeError, SafetensorError) as error:
        raise InputError(
            f"{weights} does not fit the model that model.json describes: {error}. Train again."
        ) from error
    return model.eval().requires_grad_(False)


def describe(params: ModelParams, shape: ModelShape) -> dict[str, Any]:
    """The description that load_model needs beside the weights, as JSON values."""
    return {"params": params.model_dump(mode="json"), "shape": asdict(shape)}
