"""The other model of the run that made a bundle <-> two files of the bundle: its weights and runner_up.json.

Of MoS and DIN one is served. The other is kept so that the two can be looked at side by side. It has the bundle's
vocabulary, feature spec, catalogue and golden requests, and scores of its own.
"""

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from contracts.publish import write_json
from serving.bundle.golden import GoldenRequest
from serving.bundle.index import ItemIndex, item_vectors
from serving.bundle.loaded import Bundle, load_scorer, read_json, reading, weights_of
from serving.bundle.programmed import ProgramScorer
from serving.bundle.scorer import Scorer
from serving.bundle.themes import name_themes

RUNNER_UP = "runner_up.json"
NAME, LOGITS, THEMES = "name", "golden_logits", "themes"


def copy_runner_up(weights: Path, bundle: Path, name: str) -> Scorer:
    """Put the weights of the model `name` into a bundle that has its vocabulary and feature spec."""
    shutil.copyfile(weights / weights_of(name), bundle / weights_of(name))
    return load_scorer(bundle, name)


def write_runner_up(
    bundle: Path, name: str, scorer: Scorer, golden: Sequence[GoldenRequest], vocabulary: pa.Table, codes: Any
) -> list[GoldenRequest]:
    """Score the golden requests by this model and write what it says. Returns them with these scores.

    codes: as name_themes takes them.
    """
    scored = [replace(each, logits=each.rescore(scorer)) for each in golden]
    themes = name_themes(scorer, vocabulary, codes)
    write_json(bundle / RUNNER_UP, {NAME: name, LOGITS: [each.logits for each in scored], THEMES: themes})
    return scored


def open_runner_up(bundle: Bundle) -> Bundle | None:
    """The same bundle with the other model in it.

    None of one packaged before there was any, or if programs compute: those are of the served model alone.
    """
    path = bundle.path / RUNNER_UP
    if not path.exists() or isinstance(bundle.scorer, ProgramScorer):
        return None
    told = read_json(path)
    with reading(path):
        name, logits, themes = told[NAME], told[LOGITS], told[THEMES]
        golden = [replace(each, logits=own) for each, own in zip(bundle.golden, logits, strict=True)]
        scorer = load_scorer(bundle.path, name)
        if len(themes) != scorer.theme_NT.shape[1]:
            raise ValueError(f"it names {len(themes)} themes, and the model has {scorer.theme_NT.shape[1]}")
        return replace(
            bundle,
            scorer=scorer,
            theme_names=[theme["name"] for theme in themes],
            golden=golden,
            index=ItemIndex.of(scorer, item_vectors(scorer), bundle.index.catalogue),
            runner_up=name,
        )
