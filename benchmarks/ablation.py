"""The pipeline's outputs in data/<source> -> what each group of scalars adds: trees without the group.

    python -m benchmarks.ablation

Trees are fitted with three seeds each and the columns of a group blanked. Writes reports/<source>/ablation.json and
.md; the sequence models' own ablations are rows of `python -m benchmarks.baselines --models all`.
"""

import argparse
import logging
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from benchmarks.baselines import about, parse
from benchmarks.contenders import Contender, against, calibrated, figures
from benchmarks.table import write_table
from benchmarks.tracks import PARTS, TRACKS, Part, Track, open_log, read_track
from benchmarks.trees import GRID, fit
from contracts.errors import InputError
from contracts.params import load_params
from training.evaluate import plain

log = logging.getLogger("leitmotif")

CONTEXT = ("item_is_read", "hour_", "on_item_page", "is_subscriber", "device_")
RECENCY = ("item_age", "item_seen_age", "item_click_age")
BAR = "all"

Blank = Callable[[str], bool]

GROUPS: dict[str, Blank] = {
    BAR: lambda name: False,
    "without co-clicks": lambda name: name.startswith("coclick_"),
    "without what the user saw before": lambda name: name.startswith("user_item_"),
    "without the user's own counts": lambda name: name.startswith("user_") and not name.startswith("user_item_"),
    "without context": lambda name: name.startswith(CONTEXT),
    "without recency": lambda name: name.startswith(RECENCY),
    "without windows below 1 h": lambda name: any(f"_{window}s" in name for window in ("300", "900")),
    "without list features": lambda name: name.endswith(("_rank", "_difference", "list_length")),
    "item facts and context alone (no history)": lambda name: name.startswith(("user_", "coclick_")),
}
"""Row -> which columns are blanked."""


def main() -> None:
    """Measure and write; exit 2 if the outputs are missing."""
    options = parse("ablation", add_own)
    sections = load_params()
    data = options.data or Path("data") / sections["source"].id
    evaluate, seeds = sections["evaluate"], [sections["seed"] + number for number in range(options.seeds)]
    try:
        source = open_log(data, sections, options.max_requests)
        track = read_track(source, replace(source.spec, in_list=TRACKS[options.track]))
        made = {name: _fit(name, blanked(track, blank), seeds, options.num_threads) for name, blank in GROUPS.items()}
    except InputError as error:
        sys.exit(f"ablation failed: {error}")
    draws = (source.parts["test"], evaluate.num_bootstrap, sections["seed"])
    rows = [plain(figures(each, *draws) | dict(against(each, made[BAR], *draws))) for each in made.values()]
    out = options.out or Path("reports") / source.source
    print(write_table(out, "ablation", about(source) | {"track": options.track}, rows))


def blanked(track: Track, blank: Blank) -> Track:
    """The track with the columns of these names set to 0."""
    kept = np.array([not blank(name) for name in track.spec.scalars], np.float32)

    def part(name: str) -> Part:
        whole: Part = getattr(track, name)
        return replace(whole, scalars=whole.scalars * kept)

    return replace(track, **{name: part(name) for name in PARTS})


def _fit(name: str, track: Track, seeds: list[int], num_threads: int) -> Contender:
    log.info("%s", name)
    fitted = [fit(track, "binary", seed, num_threads, GRID[0]) for seed in seeds]
    of_validation, of_test = ([each.score(part) for each in fitted] for part in (track.validation, track.test))
    pairs = zip(of_validation, of_test, strict=True)
    return Contender(name, [calibrated(*pair, track.validation.label) for pair in pairs])


def add_own(parser: argparse.ArgumentParser) -> None:
    """The options of this benchmark."""
    parser.add_argument("--track", choices=list(TRACKS), default="challenge", help="which track")


if __name__ == "__main__":
    main()
