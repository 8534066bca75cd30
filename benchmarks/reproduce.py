"""data/<source> -> the comparison that the docs quote: every variant, several seeds, several sizes; resumable.

    python -m benchmarks.reproduce                                        # the core rows at the size of params.yaml
    python -m benchmarks.reproduce --groups backbones mixtures controls ablations --sizes 20000 80000 --seeds 5
    python -m benchmarks.reproduce --models din mos_din mos_500 --sizes 80000      # some rows of any groups, by name

Every fit is cached in .cache/reproduce by its inputs, so that a stopped run can be resumed. --processes fits run at a
time, first seeds first; after --limit-s no fit begins, and rows use the seeds that are finished. Writes
benchmarks/results/reproduce_<source>.json and .md. Differences are paired: same requests, seeds and draws of users.
"""

import argparse
import logging
import multiprocessing
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from benchmarks.kept import Arrays, digest_arrays, digest_files, kept, place_of
from benchmarks.table import write_table
from benchmarks.variants import GROUPS, Variant, make
from contracts.errors import InputError
from contracts.params import load_params
from contracts.schema import FIRST_INDEX
from features.encoding.counters import Counters
from training.evaluate import plain
from training.fitting.continued import fit_from
from training.fitting.fit import fit
from training.judging.cost import flops_of_request
from training.judging.measure import bootstrap_iauc, with_interval
from training.judging.scoring import score_requests
from training.judging.slices import NO_THEME, requests_since_shift, true_item_themes
from training.metrics import auc, iauc, normalised_mutual_information
from training.model.build import Model, fit_buffers
from training.model.mixture import MixtureOfSequence
from training.model.params import ModelParams, TrainParams
from training.requests.batches import RequestDataset, make_dataset
from training.requests.catalogue import Vocabulary, load_counters, load_vocabulary
from training.requests.reader import Events, Requests, load_events, load_requests
from training.train import SCALE_FLOOR, Prepared, feature_spec, fit_one, num_parameters, prepare

log = logging.getLogger("leitmotif")

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
CODE = ("training/**/*.py", "features/encoding/*.py", "benchmarks/variants.py", "benchmarks/fixed_routing.py")
NAMED = {name: each for group in GROUPS.values() for name, each in group.items()}
BAR = "din"


@dataclass(frozen=True)
class Bench:
    """A log as the pipeline left it, and its test part."""

    data: Path
    sections: Mapping[str, Any]
    events: Events
    vocabulary: Vocabulary
    counters: Counters
    test: RequestDataset
    first_after_shift: npt.NDArray[np.bool_]  # [R]
    true_theme_N: npt.NDArray[np.int64] | None  # of each item_index
    digest: str  # of data and code

    @property
    def requests(self) -> Requests:
        """The test part."""
        return self.test.requests


def open_bench(data: Path, sections: Mapping[str, Any], max_test: int | None) -> Bench:
    """Read the log. max_test: so many test requests at most, drawn evenly; None: all."""
    model, seed = sections["model"], sections["seed"]
    spec = feature_spec(sections["history"], model, sections["statistics"])
    events, vocabulary = load_events(data), load_vocabulary(data)
    requests, counters = load_requests(data, events), load_counters(data, vocabulary)
    small = sections["train"].model_copy(update={"max_requests": 64})
    cuts = prepare(data, spec, sections["split"], sections["labels"], small, seed).cuts
    shifts = requests_since_shift(data, requests, sections["history"].session_gap_s) == 0
    chosen = np.flatnonzero(cuts.holds(requests, "test"))
    if max_test is not None and len(chosen) > max_test:
        chosen = chosen[np.linspace(0, len(chosen) - 1, max_test).round().astype(np.int64)]
    test = make_dataset(spec, events, requests.take(chosen), counters)
    themes = true_item_themes(data, vocabulary.item_ids)
    arrays = [events.item_index, events.occurred_at, requests.at, requests.item_index, requests.label, test.scalars]
    return Bench(
        data=data,
        sections=sections,
        events=events,
        vocabulary=vocabulary,
        counters=counters,
        test=test,
        first_after_shift=shifts[chosen],
        true_theme_N=None if themes is None else np.r_[np.full(FIRST_INDEX, NO_THEME), themes],
        digest=digest_arrays(arrays) + digest_files(path for glob in CODE for path in ROOT.glob(glob)),
    )


@dataclass(frozen=True)
class Fit:
    """One model to be fitted: a variant at a size, drawn from a seed."""

    name: str
    variant: Variant
    size: int
    seed: int

    def params(self, bench: Bench) -> tuple[ModelParams, TrainParams]:
        """What it is fitted with."""
        train = {"start": "random", **self.variant.train, "max_requests": self.size}
        sections = bench.sections
        return sections["model"].model_copy(update=dict(self.variant.changes)), sections["train"].model_copy(
            update=train
        )

    def made_from(self, bench: Bench) -> dict[str, Any]:
        """All that decides its logits."""
        model, train = self.params(bench)
        return {
            "variant": self.name,
            "model": model.model_dump(mode="json"),
            "train": train.model_dump(mode="json"),
            "seed": self.seed,
            "without": list(self.variant.without),
            "data_and_code": bench.digest,
            "torch": torch.__version__,
        }

    @property
    def title(self) -> str:
        """Of its file."""
        return f"{self.name}_{self.size}_{self.seed}"


def fitted(bench: Bench, one: Fit, keep_in: Path) -> Arrays:
    """Logits of the test part and what the fit cost; kept."""
    return kept(keep_in, one.title, one.made_from(bench), lambda: _fit(bench, one))


def fit_all(bench: Bench, fits: Sequence[Fit], keep_in: Path, processes: int, limit_s: float | None) -> None:
    """Run the fits that are not cached yet, in this order, several at a time. None begins after limit_s."""
    began = time.monotonic()
    missing = [one for one in fits if not place_of(keep_in, one.title, one.made_from(bench)).exists()]
    log.info("%d of %d fits are kept", len(fits) - len(missing), len(fits))
    running: set[Future[None]] = set()
    with ProcessPoolExecutor(processes, multiprocessing.get_context("fork"), _take_over, (bench, keep_in)) as pool:
        for one in missing:
            while len(running) >= processes:
                done, running = wait(running, return_when="FIRST_COMPLETED")
                _ = [each.result() for each in done]  # a fit that failed ends the run; what is kept stays
            if limit_s is not None and time.monotonic() - began > limit_s:
                break
            running.add(pool.submit(_fit_here, one))
        _ = [each.result() for each in running]


def _take_over(bench: Bench, keep_in: Path) -> None:
    """In a process of the pool: what each of its fits reads."""
    global _HERE  # handed over by fork, not by pickling gigabytes a fit
    _HERE = bench, keep_in


_HERE: tuple[Bench, Path]


def _fit_here(one: Fit) -> None:
    bench, keep_in = _HERE
    fitted(bench, one, keep_in)


def _fit(bench: Bench, one: Fit) -> Arrays:
    sections, variant = bench.sections, one.variant
    params, train = one.params(bench)
    spec = feature_spec(sections["history"], params, sections["statistics"])
    prepared = prepare(bench.data, spec, sections["split"], sections["labels"], train, one.seed)
    torch.manual_seed(one.seed)
    model = make(variant, params, prepared.shape, bench.true_theme_N)
    mean, scale = prepared.train.standardisation()
    scale[scale < SCALE_FLOOR] = 1.0
    fit_buffers(model, prepared.tables.row_of_item, prepared.tables.item_categories, mean, scale)
    began, given = time.process_time(), (prepared.train, prepared.validation, train, one.seed)
    if train.start == "backbone":
        assert isinstance(model, MixtureOfSequence)
        record, best = fit_from(fit_one(BAR, params, prepared, train, one.seed), model, *given)
    else:
        record, best = fit(one.name, model, *given)
    seconds = time.process_time() - began
    test = RequestDataset(spec, bench.events, bench.requests, bench.test.scalars, bench.test.counters)
    log.info("%s: step %d of %d, %.0f CPU s", one.title, record[best - 1].step, record[-1].step, seconds)
    candidates = round(len(bench.requests.label) / len(bench.requests))
    flops = flops_of_request(variant.model, params, prepared.shape, params.history_length, candidates)
    return {
        "logits": score_requests(one.name, model, test),
        "cpu_s": np.array(seconds),
        "trained_on": np.array(len(prepared.train)),
        "nmi": np.array(_recovery(bench, model, prepared)),
        "mflops": np.array(np.nan if flops is None else flops / 1e6),
        "parameters": np.array(num_parameters(model)),
    }


def _recovery(bench: Bench, model: Model, prepared: Prepared) -> float:
    """Normalised mutual information of the true themes and the model's, over items with rows; nan without either."""
    if bench.true_theme_N is None or not isinstance(model, MixtureOfSequence):
        return float("nan")
    warm = np.flatnonzero((bench.true_theme_N >= 0) & (prepared.tables.row_of_item > 1))
    with torch.inference_mode():
        found = model.themes(torch.from_numpy(warm)).argmax(1).numpy()
    return normalised_mutual_information(bench.true_theme_N[warm], found)


def rows_of(bench: Bench, fits: Sequence[Fit], keep_in: Path) -> list[dict[str, Any]]:
    """One row per variant and size, over the seeds for which its fit and the baseline's are cached."""
    made = {
        (one.size, one.name, one.seed): fitted(bench, one, keep_in)
        for one in fits
        if place_of(keep_in, one.title, one.made_from(bench)).exists()
    }
    rows = []
    for size, name in dict.fromkeys((one.size, one.name) for one in fits):
        seeds = [seed for each, model, seed in made if (each, model) == (size, name) and (size, BAR, seed) in made]
        if not seeds:
            log.warning("%s at %d requests is not fitted yet: no row", name, size)
            continue
        variant = next(one.variant for one in fits if one.name == name)
        ours, bar = ([made[size, each, seed] for seed in seeds] for each in (name, BAR))
        rows.append({"size": size, **_row(bench, variant, name, ours, bar)})
    return rows


def _row(bench: Bench, variant: Variant, name: str, fits: list[Arrays], bar: list[Arrays]) -> dict[str, Any]:
    requests, first = bench.requests, bench.first_after_shift
    shifted = requests.take(first)
    rows_shifted = first[requests.request_of_row]

    def means(arrays: list[Arrays]) -> dict[str, npt.NDArray[np.float64]]:
        logits = [each["logits"].astype(np.float64) for each in arrays]
        return {
            "auc": np.array([auc(score, requests.label) for score in logits]),
            "iauc": np.array([iauc(score, requests.label, requests.request_of_row) for score in logits]),
            "first_iauc": np.array(
                [iauc(score[rows_shifted], shifted.label, shifted.request_of_row) for score in logits]
            ),
        }

    ours, theirs = means(fits), means(bar)
    row: dict[str, Any] = {"model": name, "what": variant.what, "trained_on": int(fits[0]["trained_on"])}
    for figure, values in ours.items():
        apart = values - theirs[figure]
        row[figure] = float(values.mean())
        row[f"{figure}_minus_din"] = float(apart.mean())
        row[f"{figure}_se"] = float(apart.std(ddof=1) / np.sqrt(len(apart))) if len(apart) > 1 else float("nan")
    draws = [
        bootstrap_iauc([each["logits"] for each in arrays], requests, bench.sections["evaluate"].num_bootstrap, 1)
        for arrays in (fits, bar)
    ]
    interval = with_interval("iauc_minus_din", row["iauc_minus_din"], draws[0] - draws[1])
    return row | {
        "iauc_minus_din_low": interval["iauc_minus_din_low"],
        "iauc_minus_din_high": interval["iauc_minus_din_high"],
        "nmi": float(np.mean([each["nmi"] for each in fits])),
        "mflops": float(fits[0]["mflops"]),
        "parameters": int(fits[0]["parameters"]),
        "cpu_s": float(np.mean([each["cpu_s"] for each in fits])),
        "seeds": len(fits),
    }


def main() -> None:
    """Measure and write; exit 2 if the outputs are missing."""
    parser = argparse.ArgumentParser(
        prog="benchmarks.reproduce", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--groups", nargs="+", choices=list(GROUPS), default=["core"], help="which rows")
    parser.add_argument("--models", nargs="+", choices=list(NAMED), metavar="NAME", help="rows by name, not by group")
    parser.add_argument("--sizes", nargs="+", type=int, help="training requests; default train.max_requests")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--max-test", type=int, help="so many test requests at most; default all")
    parser.add_argument("--data", type=Path, help="the outs of a run; default data/<source.id>")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--keep-in", type=Path, default=Path(".cache") / "reproduce")
    parser.add_argument("--num-threads", type=int, default=1, help="of a fit")
    parser.add_argument("--processes", type=int, default=1, help="fits at a time")
    parser.add_argument("--limit-s", type=float, help="no fit begins after so many seconds; 0: a table of what is kept")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(options.num_threads)
    sections = load_params()
    data = options.data or Path("data") / sections["source"].id
    seeds = [sections["seed"] + number for number in range(options.seeds)]
    options.keep_in.mkdir(parents=True, exist_ok=True)
    try:
        bench = open_bench(data, sections, options.max_test)
        of_groups = (name for group in options.groups for name in GROUPS[group])
        wanted = {name: NAMED[name] for name in options.models or of_groups}
        if bench.true_theme_N is None:
            wanted = {name: each for name, each in wanted.items() if not each.needs_truth}
        wanted = {BAR: NAMED[BAR], **wanted}  # fitted whether asked for or not
        sizes = options.sizes or [sections["train"].max_requests]
        fits = [Fit(name, each, size, seed) for seed in seeds for size in sizes for name, each in wanted.items()]
        fit_all(bench, fits, options.keep_in, options.processes, options.limit_s)
        rows = rows_of(bench, fits, options.keep_in)
    except (InputError, FileNotFoundError) as error:
        print(f"reproduce failed: {error}. `make run` makes the log's outs.", file=sys.stderr)
        sys.exit(2)
    about = {"log": data.name, "test_requests": len(bench.requests), "num_threads": options.num_threads}
    if not rows:
        print("reproduce failed: nothing is fitted yet. Leave out --limit-s, or raise it.", file=sys.stderr)
        sys.exit(2)
    print(write_table(options.out, f"reproduce_{data.name}", about, [plain(row) for row in rows]))


if __name__ == "__main__":
    main()
