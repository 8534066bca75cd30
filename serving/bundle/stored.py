"""A feature spec and the settings by which a log was stored -> what a model of that spec cannot read there."""

from collections.abc import Mapping
from typing import Any

from features.encoding.encode import FeatureSpec


def other_histories(spec: FeatureSpec, settings: Mapping[str, Any]) -> list[str]:
    """What decides a history and is another than in training: none where the model can read them."""
    trained = {name: getattr(spec, name) for name in ("labels", "session_gap_s", "session_max_s")}
    return [
        f"{name} {settings.get(name)} (trained: {value})"
        for name, value in trained.items()
        if settings.get(name) != value
    ]


def other_coclicks(spec: FeatureSpec, settings: Mapping[str, Any]) -> dict[str, Any] | None:
    """How co-clicks are counted where the model was trained on others; None where it can read them, or reads none."""
    counted = {name: settings.get("statistics", {}).get(name) for name in ("coclick_rank", "coclick_period_s")}
    same = counted == {name: getattr(spec, name) for name in counted}
    return counted if spec.coclick_rank and not same else None
