"""A feature spec and the settings that a log was stored with -> the settings that a model of that spec cannot read."""

from collections.abc import Mapping
from typing import Any

from features.encoding.encode import FeatureSpec


def other_histories(spec: FeatureSpec, settings: Mapping[str, Any]) -> list[str]:
    """The settings of histories that differ from training, as texts; empty if the model can read the histories."""
    trained = {name: getattr(spec, name) for name in ("labels", "session_gap_s", "session_max_s")}
    return [
        f"{name} {settings.get(name)} (trained: {value})"
        for name, value in trained.items()
        if settings.get(name) != value
    ]


def other_coclicks(spec: FeatureSpec, settings: Mapping[str, Any]) -> dict[str, Any] | None:
    """The settings of co-clicks if they differ from training; None if the model can read them, or reads none."""
    counted = {name: settings.get("statistics", {}).get(name) for name in ("coclick_rank", "coclick_period_s")}
    same = counted == {name: getattr(spec, name) for name in counted}
    return counted if spec.coclick_rank and not same else None
