"""The pipeline's outputs in data/<source> -> all baselines and the graph's models on the same test requests.

    python -m benchmarks.baselines [--models all] [--rolling]

Popularity, rate, recency, list length, logistic regression, trees by LightGBM (log loss and lambdarank) and blends, on
the scalars of features/encoding/scalars.py, in both tracks; with --models the sequence models too, fitted on the same
rows. Their logits are kept under --keep-in, so that a stopped run goes on. Writes reports/<source>/baselines.json and
.md. On a machine that is shared, set OPENBLAS_NUM_THREADS=1: its waiting threads made the logistic regression 12x
slower.
"""

import argparse
import json
import logging
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.contenders import Contender, against, blend, figures, floors, graph_models, logistic, trees
from benchmarks.rolling import rolling_trees
from benchmarks.sequence_models import VARIANTS, open_bench, sequence_model
from benchmarks.table import Row, write_table
from benchmarks.tracks import TRACKS, Log, open_log, read_track
from benchmarks.trees import fit_seeds
from contracts.errors import InputError
from contracts.params import load_params
from training.evaluate import plain
from training.model.build import GRAPH_MODELS
from training.requests.reader import MICROSECONDS, iso

log = logging.getLogger("leitmotif")

BLENDS = {
    "din_trees_blend": ("din", "trees"),
    "din_listwise_trees_blend": ("din_listwise", "trees"),
    "mos_trees_blend": ("mos", "trees"),
    "listwise_trees_blend": ("mos_listwise", "din_listwise", "trees"),
    "all_blend": ("din", "din_listwise", "twin", "mos", "mos_listwise", "trees"),
}
"""Equal weights: nothing of a blend is fitted."""


def main() -> None:
    """Measure and write; exit 2 if the outputs are missing."""
    options = parse("baselines", add_own)
    try:
        sections = load_params()
        data = options.data or Path("data") / sections["source"].id
        source = open_log(data, sections, options.max_requests)
        rows = [row for track in options.tracks for row in measure_track(source, data, track, sections, options)]
    except InputError as error:
        sys.exit(f"baselines failed: {error}")
    print(write_table(options.out or Path("reports") / source.source, "baselines", about(source), rows))


def measure_track(
    source: Log, data: Path, name: str, sections: dict[str, Any], options: argparse.Namespace
) -> list[Row]:
    """The rows of one track."""
    track = read_track(source, replace(source.spec, in_list=TRACKS[name]))
    requests, evaluate = track.test.requests, sections["evaluate"]
    seeds = [sections["seed"] + number for number in range(options.seeds)]
    field = floors(track, evaluate.popularity_window_s)
    log.info("%s: logistic regression", name)
    field.append(logistic(track))
    fitted = fit_seeds(track, "binary", seeds, options.num_threads)
    bar = trees(track, "binary", fitted)
    ranked = trees(track, "lambdarank", fit_seeds(track, "lambdarank", seeds, options.num_threads))
    field += [bar, ranked, blend("trees_blend", bar, ranked)]
    if options.rolling:
        delay_us = round(track.spec.clicks_lag_s * MICROSECONDS)
        field.append(rolling_trees(track, fitted, seeds, delay_us, options.num_threads))
    field += _of_the_graph(data, requests, track.spec.in_list, bar)
    if options.models:
        bench = open_bench(source, track, data, sections["model"], sections["train"], options.keep_in / source.source)
        torch.set_num_threads(options.num_threads)
        models = list(VARIANTS) if "all" in options.models else options.models
        nets = {model: sequence_model(bench, model, seeds) for model in models}
        field += [*nets.values(), *blends({"trees": bar, **nets})]
    bars = [bar, *(each for each in field if each.name == "din")]
    rows = []
    for contender in field:
        row: dict[str, Any] = {"track": name, **figures(contender, requests, evaluate.num_bootstrap, sections["seed"])}
        for each in bars:
            row |= against(contender, each, requests, evaluate.num_bootstrap, sections["seed"])
        rows.append(plain(row | {"note": contender.note}))
        log.info("%s %s: iAUC %.4f, AUC %.4f", name, contender.name, row["iauc"], row["auc"])
    return rows


def blends(found: dict[str, Contender]) -> list[Contender]:
    """The BLENDS whose members all exist."""
    return [
        blend(name, *(found[member] for member in members))
        for name, members in BLENDS.items()
        if found.keys() >= set(members)
    ]


def _of_the_graph(data: Path, requests: Any, in_list: bool, bar: Contender) -> list[Contender]:
    """The graph's models, where it has trained on this track, and their blends with the trees."""
    path, model = data / "predictions" / "predictions.parquet", data / "weights" / "model.json"
    if not (path.exists() and model.exists()):
        log.info("no predictions in %s: the graph's models are left out (`dvc repro evaluate`)", data)
        return []
    if json.loads(model.read_text(encoding="utf-8"))["feature_spec"].get("in_list", False) is not in_list:
        return []
    models = graph_models(str(path), requests, GRAPH_MODELS)
    models = [replace(each, name=f"graph_{each.name}") for each in models]
    return [*models, *(blend(f"{each.name}_trees_blend", each, bar) for each in models)]


def about(source: Log) -> dict[str, Any]:
    """Notes that apply to every row."""
    spec = source.spec
    return {
        "source": source.source,
        "requests": {name: len(part) for name, part in source.parts.items()},
        "train_from": iso(source.cuts.train_at),
        "validation_from": iso(source.cuts.validation_at),
        "test_from": iso(source.cuts.test_at),
        "lags_s": {"shows": spec.shows_lag_s, "clicks": spec.clicks_lag_s, "user": spec.user_lag_s},
        "intervals": "95 %, bootstrap over users",
    }


def add_own(parser: argparse.ArgumentParser) -> None:
    """The options of this benchmark."""
    parser.add_argument("--tracks", nargs="+", choices=list(TRACKS), default=list(TRACKS), help="which tracks")
    parser.add_argument(
        "--models",
        nargs="+",
        choices=["all", *VARIANTS],
        default=[],
        help="sequence models to fit: minutes each (none)",
    )
    parser.add_argument("--rolling", action="store_true", help="also trees that are retrained each test day")
    parser.add_argument("--keep-in", type=Path, default=Path(".cache/benchmarks"), help="where logits are kept")


def parse(name: str, *more: Any) -> argparse.Namespace:
    """The options that the benchmarks on a log share; logging to stderr."""
    logging.basicConfig(format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    log.setLevel(logging.INFO)
    parser = argparse.ArgumentParser(
        prog=f"python -m benchmarks.{name}",
        description=sys.modules["__main__"].__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--data", type=Path, help="data/<source>; default: of the source that params.yaml names")
    parser.add_argument("--out", type=Path, help="where the table is written; default: reports/<source>")
    parser.add_argument("--seeds", type=int, default=3, help="seeds of what is random (3)")
    parser.add_argument("--num-threads", type=int, default=2, help="threads of what is fitted (2)")
    parser.add_argument("--max-requests", type=int, default=100_000, help="latest train requests (100000)")
    for add in more:
        add(parser)
    return parser.parse_args()


if __name__ == "__main__":
    main()
