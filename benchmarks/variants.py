"""Names of the comparison -> models: backbones alone and wrapped, peers, controls, and ablated mixtures."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from benchmarks.fixed_routing import fix_routing
from training.model.batch import Candidates
from training.model.build import ALONE, PEERS, Model, build
from training.model.mixture import MixtureOfSequence, MixtureState, feature_places
from training.model.params import ModelParams
from training.model.ranker import Tables
from training.model.shape import ModelShape

SAME_COST_LENGTH = 70
"""Events that DIN reads for what the mixture's theme (50) and short (20) experts read."""


@dataclass(frozen=True)
class Variant:
    """One row of the comparison, and what of it departs from params.yaml."""

    what: str
    model: str = "mos"
    changes: Mapping[str, Any] = field(default_factory=dict)  # of the model section
    train: Mapping[str, Any] = field(default_factory=dict)  # of the train section
    without: tuple[str, ...] = ()  # experts that read nothing
    needs_truth: bool = False


def _wrapped(backbone: str, expert: str = "mean") -> dict[str, Any]:
    return {"backbone": backbone, "global_expert": expert}


BACKBONES = {name: Variant(f"{name} alone", name) for name in ALONE}
MIXTURES = {f"mos_{name}": Variant(f"MoS over {name}", changes=_wrapped(name)) for name in ALONE}
CONTAINING = {
    f"mos_{name}_whole": Variant(
        f"MoS over {name}, which reads the whole history too", changes=_wrapped(name, "backbone")
    )
    for name in ALONE
}
OTHER_MIXTURES = {name: Variant(f"{name} over DIN", name) for name in PEERS}
CONTROLS = {
    "din_theme": Variant(
        "DIN, learnt themes as features alone", changes=_wrapped("din", "backbone"), without=("theme", "short")
    ),
    "random_routing": Variant("MoS, routing as drawn", changes={"router": "random"}),
    "oracle": Variant("MoS, routed by the simulator's true themes", changes={"router": "random"}, needs_truth=True),
    "din_same_cost": Variant(
        f"DIN, the newest {SAME_COST_LENGTH} events", "din", changes={"history_length": SAME_COST_LENGTH}
    ),
}
ABLATIONS = {
    "no_theme": Variant("MoS without the theme expert", without=("theme",)),
    "no_short": Variant("MoS without the short expert", without=("short",)),
    "no_global": Variant("MoS without the global expert", without=("global",)),
    "no_information": Variant("MoS without L_MI", train={"mutual_information": 0.0, "router_steps": 0}),
    "no_pretraining": Variant("MoS, the router not trained before", train={"router_steps": 0}),
    "capacity_20": Variant("MoS, 20 events a theme", changes={"theme_capacity": 20}),
    "capacity_200": Variant("MoS, 200 events a theme", changes={"theme_capacity": 200}),
    "themes_6": Variant("MoS, 6 themes", changes={"num_themes": 6}),
    "themes_24": Variant("MoS, 24 themes", changes={"num_themes": 24}),
    "two_themes": Variant("MoS, two themes a candidate", changes={"num_candidate_themes": 2}),
    "tied": Variant("MoS, routed by the click embeddings", changes={"router": "tied"}),
    "session": Variant("MoS, sessions routed", changes={"route": "session"}),
    "blend": Variant("MoS, items and sessions routed", changes={"route": "blend"}),
}
LENGTHS = {
    f"{name}_{length}": Variant(f"{what}, the newest {length} events", name, changes={"history_length": length})
    for length in (50, 500, 1000)
    for name, what in (("din", "DIN"), ("mos", "MoS"))
}
LONG = {
    "mos_500_two_themes": Variant(
        "MoS, the newest 500 events, two themes a candidate", changes={"history_length": 500, "num_candidate_themes": 2}
    ),
    "mos_500_capacity_100": Variant(
        "MoS, the newest 500 events, 100 a theme", changes={"history_length": 500, "theme_capacity": 100}
    ),
    "mos_500_whole": Variant(
        "MoS over din, which reads the whole history of 500 events too",
        changes={"history_length": 500, **_wrapped("din", "backbone")},
    ),
}
"""Variants of a mixture with a long history, in which a theme that comes back after long is found."""
CORE = {"din": BACKBONES["din"], "mos_din": MIXTURES["mos_din"], "mos_din_whole": CONTAINING["mos_din_whole"]}
FALLING = {
    f"{name}_falling": replace(variant, what=f"{variant.what}; the rate falls", train={"schedule": "linear"})
    for name, variant in (CORE | {"oracle": CONTROLS["oracle"]}).items()
}
STARTED = {
    "mos_din_started": replace(
        CONTAINING["mos_din_whole"], what="MoS over din, starts as the trained din", train={"start": "backbone"}
    )
}
GROUPS = {
    "core": CORE,
    "started": STARTED,
    "falling": FALLING,
    "backbones": BACKBONES | MIXTURES,
    "containing": CONTAINING,
    "mixtures": OTHER_MIXTURES,
    "controls": CONTROLS,
    "ablations": ABLATIONS,
    "lengths": LENGTHS,
    "long": LONG,
}


class WithoutExpert(MixtureOfSequence):
    """Some experts read nothing: their part of the features is zero."""

    def __init__(self, params: ModelParams, shape: ModelShape, without: Sequence[str]) -> None:
        super().__init__(params, shape)
        places = feature_places(params)
        parts = (part for name in without for part in (name, f"query * {name}"))
        self.absent = torch.tensor([place for part in parts for place in places[part]])

    def features(self, state: MixtureState, candidates: Candidates, tables: Tables) -> Tensor:
        """As the mixture's, less what the expert says."""
        return super().features(state, candidates, tables).index_fill(1, self.absent, 0.0)


def make(variant: Variant, params: ModelParams, shape: ModelShape, true_theme_N: npt.NDArray[np.int64] | None) -> Model:
    """The variant's model with drawn weights. true_theme_N: of each item_index, -1 where it has none."""
    if variant.without:
        return WithoutExpert(params, shape, variant.without)
    model = build(variant.model, params, shape)
    if variant.needs_truth:
        assert true_theme_N is not None, "the caller leaves such variants out where there is no truth"
        fix_routing(model, true_theme_N)
    return model
