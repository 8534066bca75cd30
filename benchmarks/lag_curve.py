"""The pipeline's outputs in data/<source> -> the cost of late counters: iAUC of trees by the lag of item clicks.

    python -m benchmarks.lag_curve

Trees are fitted for each lag with three seeds. --shows delays the shows as much as the clicks. Writes
reports/<source>/lag_curve.json and .md.
"""

import argparse
import logging
import sys
from dataclasses import replace
from pathlib import Path

from benchmarks.baselines import about, parse
from benchmarks.contenders import Contender, against, calibrated, figures, floors
from benchmarks.table import write_table
from benchmarks.tracks import TRACKS, open_log, read_track
from benchmarks.trees import GRID, fit
from contracts.errors import InputError
from contracts.params import load_params
from training.evaluate import plain

log = logging.getLogger("leitmotif")

LAGS_S = (0, 60, 300, 900, 3600)
BAR_S = 300


def main() -> None:
    """Measure and write; exit 2 if the outputs are missing."""
    options = parse("lag_curve", add_own)
    sections = load_params()
    data = options.data or Path("data") / sections["source"].id
    evaluate, seeds = sections["evaluate"], [sections["seed"] + number for number in range(options.seeds)]
    try:
        source = open_log(data, sections, options.max_requests)
        contenders = {}
        for lag_s in options.lags_s:
            late = {"clicks_lag_s": float(lag_s)} | ({"shows_lag_s": float(lag_s)} if options.shows else {})
            track = read_track(source, replace(source.spec, in_list=TRACKS[options.track], **late))
            fitted = [fit(track, "binary", seed, options.num_threads, GRID[0]) for seed in seeds]
            of_validation, of_test = ([each.score(part) for each in fitted] for part in (track.validation, track.test))
            scored = [calibrated(*pair, track.validation.label) for pair in zip(of_validation, of_test, strict=True)]
            popular = floors(track, evaluate.popularity_window_s)[0]
            contenders[lag_s] = (Contender(f"{BAR_S}_s", scored), popular)
    except InputError as error:
        sys.exit(f"lag_curve failed: {error}")
    requests, bar = source.parts["test"], contenders[min(contenders, key=lambda lag_s: abs(lag_s - BAR_S))][0]
    draws = (requests, evaluate.num_bootstrap, sections["seed"])
    rows = []
    for lag_s, (trees, popular) in contenders.items():
        row = {"lag_s": lag_s} | figures(trees, *draws) | dict(against(trees, bar, *draws))
        popularity = figures(popular, *draws)["iauc"]
        rows.append(plain({k: v for k, v in row.items() if k != "model"} | {"popularity_iauc": popularity}))
    name = "lag_curve_of_shows_and_clicks" if options.shows else "lag_curve"
    print(
        write_table(
            options.out or Path("reports") / source.source, name, about(source) | {"track": options.track}, rows
        )
    )


def add_own(parser: argparse.ArgumentParser) -> None:
    """The options of this benchmark."""
    parser.add_argument("--track", choices=list(TRACKS), default="challenge", help="which track")
    parser.add_argument("--lags-s", type=float, nargs="+", default=LAGS_S, help="lags of clicks in seconds")
    parser.add_argument("--shows", action="store_true", help="delay the shows too")


if __name__ == "__main__":
    main()
