"""Who answers for a stage's outputs, what makes them, and how old they may become, as Dagster's page shows it."""

from collections.abc import Mapping
from datetime import timedelta

import dagster as dg

from orchestration.graph import Out, Stage

MADE_WITH: Mapping[str, tuple[str, ...]] = {
    "ingest": ("duckdb", "parquet"),
    "validate": ("greatexpectations", "duckdb"),
    "histories": ("duckdb", "arrow"),
    "describe": ("duckdb", "html"),
    "statistics": ("duckdb", "scikitlearn"),
    "audit": ("scikitlearn", "html"),
    "materialize": ("feast", "duckdb"),
    "train": ("pytorch", "pytorchlightning"),
    "evaluate": ("pytorch", "scikitlearn"),
    "review": ("html",),
    "package": ("bentoml", "pytorch"),
}
"""Stage -> the technologies that an expert looks for there, by the names under which Dagster has their icons. With
`dvc` they are three, as many as Dagster allows."""
OWNERS: Mapping[str, str] = {"features": "team:data", "training": "team:modelling", "serving": "team:serving"}
"""Package -> who answers for what it makes. Rename them to your teams or to addresses."""
DAY = timedelta(days=1)
FRESH: Mapping[str, tuple[timedelta, timedelta]] = {
    "validated_interactions": (2 * DAY, 7 * DAY),
    "feature_snapshot": (2 * DAY, 7 * DAY),
    "bundle": (8 * DAY, 30 * DAY),
}
"""Output -> by the wall clock, after how long without a new one Dagster warns, and after how long it fails. A nightly
run that was missed once is no alarm. How far the log itself lies behind is the check `event_time_lag`."""


def kinds_of(stage: Stage) -> set[str]:
    """The technologies of a stage's outputs."""
    return {"dvc", *MADE_WITH.get(stage.name, ("python",))}


def owners_of(package: str) -> list[str]:
    """Who answers for a package's outputs; nobody for one that is not ours."""
    return [OWNERS[package]] if package in OWNERS else []


def freshness_of(out: Out) -> dg.FreshnessPolicy | None:
    """How old an output may become, for the few that others wait for."""
    if out.key not in FRESH:
        return None
    warns_after, fails_after = FRESH[out.key]
    return dg.FreshnessPolicy.time_window(fail_window=fails_after, warn_window=warns_after)
