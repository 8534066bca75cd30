"""The Launchpad offers every parameter of a stage with its type and comment, and changes what is given alone."""

from pathlib import Path

import dagster as dg
import pytest

from contracts.params import SECTIONS
from orchestration.launchpad import given, read_notes, stage_config

ROOT = Path(__file__).resolve().parents[2]


def errors(sections: tuple[str, ...], config: dict[str, object]) -> list[str]:
    """What Dagster says of a config before anything runs."""

    @dg.op(config_schema=stage_config(sections, ROOT))
    def stage() -> None: ...

    @dg.job
    def pipeline() -> None:
        stage()

    try:
        dg.validate_run_config(pipeline, {"ops": {"stage": {"config": config}}})
    except dg.DagsterInvalidConfigError as error:
        return [each.message for each in error.errors]
    return []


def test_every_section_has_a_type_and_none_has_a_default() -> None:
    fields = stage_config(tuple(SECTIONS), ROOT)
    assert set(fields) == {*SECTIONS, "params"}
    for section in fields.values():
        for field in getattr(section.config_type, "fields", {}).values():
            assert not field.is_required
            assert not field.default_provided or field.default_value == {}, field.description
            assert field.description


@pytest.mark.parametrize(
    "config",
    [
        {"model": {"backbone": "hstu", "dropout": 0.1, "hidden": [8, 4]}},
        {"train": {"gradient_clip": None, "devices": "auto"}},
        {"train": {"devices": 2}},
        {"split": {"test": "2024-01-20T00:00:00Z"}},
        {"source": {"columns": {"user_id": "who", "label": None}}},
        {"expectations": {"limits": {"my_own": 3}}},
        {"engine": {"name": "spark", "master": "local[2]", "options": {"spark.executor.memory": "1g"}}},
        {"params": {"model.num_themes": 8}},
        {},
    ],
)
def test_the_launchpad_accepts_every_valid_params_yaml(config: dict[str, object]) -> None:
    assert errors(("model", "train", "split", "source", "expectations", "engine"), config) == []


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"model": {"backbone": "lstm"}}, "model:backbone"),
        ({"model": {"num_themes": "many"}}, "num_themes"),
        ({"model": {"themes": 3}}, '"themes"'),
        ({"model": {"hidden": 8}}, "list"),
        ({"train": {"num_nodes": None}}, "num_nodes"),
        ({"engine": {"name": "sparkk"}}, "engine:name"),
    ],
)
def test_a_wrong_value_is_refused_before_anything_runs(config: dict[str, object], says: str) -> None:
    (error,) = errors(("model", "train", "engine"), config)
    assert says in error


def test_what_is_given_is_flat_and_the_typed_key_wins() -> None:
    config = {
        "params": {"audit": {"seed": 3, "num_draws": 30}, "model.width": 8},
        "audit": {"seed": 4},
        "labels": {"delay_s": 60.0},
        "history": {},
        "engine": {"options": {"spark.cores.max": "4"}},
        "seed": 0,
    }
    assert given(config) == {
        "engine.options": {"spark.cores.max": "4"},
        "audit.seed": 4,
        "audit.num_draws": 30,
        "model.width": 8,
        "labels.delay_s": 60,
        "seed": 0,
    }


def test_comments_are_those_behind_a_key_below_it_and_above_it() -> None:
    text = """
# of the file

seed: 1
split:                       # where parts begin
  # null: the log's start
  train_from:
  name: simulator            # which log: it
                             # goes on
  note: "#1"
  test: 0.9
"""
    assert read_notes(text) == {
        "split": "where parts begin",
        "split.train_from": "null: the log's start",
        "split.name": "which log: it goes on",
    }
