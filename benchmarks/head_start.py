"""data/<source> -> what a head start from a simple model on the counters gives MoS and DIN; resumable.

    python -m benchmarks.head_start --size 20000 --seeds 3

The simple models are those of evaluate: a logistic regression, and gradient-boosted trees. A head start is a linear
part on the scalars added to the logit, with which the model starts as the regression; or with the trees' logit as one
scalar more (out of fold by user where the model trains), as the trees. Beside them: the simple models alone, and the
mean of their log odds and the model's. Differences are to the same model without one: same requests, seeds, pretrained
router and draws of users. Writes benchmarks/results/head_start_<source>.json and .md.
"""

import argparse
import logging
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from benchmarks.kept import Arrays, kept, place_of
from benchmarks.reproduce import RESULTS, Bench, open_bench
from benchmarks.table import write_table
from contracts.errors import InputError
from contracts.params import load_params
from features.terms.convention import is_click
from training.evaluate import plain
from training.fitting.data import RequestData
from training.fitting.fit import fit, pretrain_router
from training.judging.baselines import LOGISTIC_RIDGE, logistic
from training.judging.measure import bootstrap_iauc, draw_weights, with_interval
from training.judging.scoring import score_requests
from training.judging.trees import trees
from training.metrics import auc, bootstrap_auc, fit_logistic, iauc
from training.model.build import Model, build, fit_buffers
from training.model.head import SCALAR_LIMIT
from training.requests.batches import RequestDataset
from training.train import SCALE_FLOOR, Prepared, feature_spec, prepare

log = logging.getLogger("leitmotif")

MODELS = ("din", "mos")
FOLDS = 5
Floats = npt.NDArray[np.float64]


STARTS = {
    "plain": "as it is",
    "logistic_first": "starts as the logistic regression",
    "trees_first": "starts as the trees",
}
SIMPLE = ("logistic", "trees")


class Wide(nn.Module):
    """A head's MLP beside a linear part of the scalars, which are its last inputs."""

    def __init__(self, deep: nn.Sequential, start: Floats) -> None:
        """start: [1 + S] the bias and the weights of standardised scalars."""
        super().__init__()
        self.deep, self.wide = deep, nn.Linear(len(start) - 1, 1)
        with torch.no_grad():
            self.wide.bias.fill_(start[0])
            self.wide.weight.copy_(torch.from_numpy(start[1:]))

    def forward(self, given_BI: Tensor) -> Tensor:
        """Logits [B, 1]."""
        return self.deep(given_BI) + self.wide(given_BI[:, -self.wide.in_features :])


def main() -> None:
    """Measure and write; exit 2 if the outputs are missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--starts", nargs="+", choices=list(STARTS), default=list(STARTS))
    parser.add_argument("--size", type=int, help="training requests; default train.max_requests")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--max-test", type=int, help="so many test requests at most; default all")
    parser.add_argument("--data", type=Path, help="the outs of a run; default data/<source.id>")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--keep-in", type=Path, default=Path(".cache") / "head_start")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(1)
    sections = load_params()
    data = options.data or Path("data") / sections["source"].id
    if options.size:
        sections["train"] = sections["train"].model_copy(update={"max_requests": options.size})
    options.keep_in.mkdir(parents=True, exist_ok=True)
    try:
        bench = open_bench(data, sections, options.max_test)
    except (InputError, FileNotFoundError) as error:
        print(f"head_start failed: {error}. `make run` makes the log's outs.", file=sys.stderr)
        sys.exit(2)
    fits: dict[tuple[str, str], list[Arrays]] = {}
    starts = dict.fromkeys(["plain", *options.starts])
    for seed in range(sections["seed"], sections["seed"] + options.seeds):
        simple = alone(bench, seed, options.keep_in)
        for model in MODELS:
            for start in starts:
                fits.setdefault((model, start), []).append(fitted(bench, model, start, seed, options.keep_in))
            for name in SIMPLE:
                logits = {"logits": (fits[model, "plain"][-1]["logits"] + simple[name]) / 2}
                fits.setdefault((model, f"mean with {name}"), []).append(logits)
                fits.setdefault((model, f"{name} alone"), []).append({"logits": simple[name]})
        rows = [row(bench, model, start, fits[model, start], fits[model, "plain"]) for model, start in fits]
        about = {"log": data.name, "test_requests": len(bench.requests), "train_max": sections["train"].max_requests}
        print(write_table(options.out, f"head_start_{data.name}", about, [plain(each) for each in rows]))


def fitted(bench: Bench, model: str, start: str, seed: int, keep_in: Path) -> Arrays:
    """Logits of the test part and the validation iAUC; kept."""
    given = {name: bench.sections[name].model_dump(mode="json") for name in ("model", "train")}
    made_from = {**given, "of": model, "start": start, "seed": seed, "data_and_code": bench.digest}
    title = f"{model}_{start}_{seed}"
    if not place_of(keep_in, title, made_from).exists():
        log.info("%s is fitted", title)
    return kept(keep_in, title, made_from, lambda: _fit(bench, model, start, seed, keep_in))


def _fit(bench: Bench, name: str, start: str, seed: int, keep_in: Path) -> Arrays:
    sections = bench.sections
    params, train = sections["model"], sections["train"]
    spec = feature_spec(sections["history"], params, sections["statistics"])
    prepared, test = prepare(bench.data, spec, sections["split"], sections["labels"], train, seed), bench.test
    if start == "trees_first":
        prepared, test = with_trees(prepared, test)
    torch.manual_seed(seed)
    model = build(name, params, prepared.shape)
    mean, scale = prepared.train.standardisation()
    scale[scale < SCALE_FLOOR] = 1.0
    fit_buffers(model, prepared.tables.row_of_item, prepared.tables.item_categories, mean, scale)
    if start != "plain":
        give(model, start, prepared, mean, scale)
    pretrain(bench, name, model, prepared, seed, keep_in)
    train = train.model_copy(update={"router_steps": 0})
    record, best = fit(name, model, prepared.train, prepared.validation, train, seed)
    return {
        "logits": score_requests(name, model, test),
        "validation_iauc": np.array(record[best - 1].validation_iauc),
        "step": np.array(record[best - 1].step),
    }


def pretrain(bench: Bench, name: str, model: Model, prepared: Prepared, seed: int, keep_in: Path) -> None:
    """Train the router on L_MI as fit does, once a seed: it reads no scalar, so a head start changes nothing of it."""
    router, train = getattr(model, "router", None), bench.sections["train"]
    if router is None:
        return

    def made() -> Arrays:
        data = RequestData(prepared.train, prepared.validation, train.batch_requests, seed)
        pretrain_router(name, model, data, train)
        return {key: value.numpy() for key, value in router.state_dict().items()}

    given = {section: bench.sections[section].model_dump(mode="json") for section in ("model", "train")}
    state = kept(keep_in, f"router_{seed}", {**given, "seed": seed, "data_and_code": bench.digest}, made)
    router.load_state_dict({key: torch.from_numpy(value) for key, value in state.items()})


def alone(bench: Bench, seed: int, keep_in: Path) -> Arrays:
    """Logits of the test part by each of SIMPLE; kept."""
    sections = bench.sections
    train = sections["train"]

    def made() -> Arrays:
        spec = feature_spec(sections["history"], sections["model"], sections["statistics"])
        prepared = prepare(bench.data, spec, sections["split"], sections["labels"], train, seed)
        fitted_on = prepared.train.scalars, prepared.train.requests.label
        by_trees = trees(
            fitted_on, (prepared.validation.scalars, prepared.validation.requests.label), bench.test.scalars, 1
        )
        assert by_trees is not None, "training parts have both classes (training.train)"
        clicked = is_click(fitted_on[1]).astype(np.float64)
        return {"logistic": logistic(fitted_on[0], clicked, bench.test.scalars), "trees": by_trees}

    given = {"train": train.model_dump(mode="json"), "seed": seed, "data_and_code": bench.digest}
    return kept(keep_in, f"simple_{seed}", given, made)


def give(model: Model, start: str, prepared: Prepared, mean: Floats, scale: Floats) -> None:
    """Put the linear part into the model's head, whose own output starts at zero."""
    beta = np.zeros(1 + len(mean))
    if start == "logistic_first":
        x = np.clip((prepared.train.scalars - mean) / scale, -SCALAR_LIMIT, SCALAR_LIMIT)
        beta = fit_logistic(x, is_click(prepared.train.requests.label).astype(np.float64), LOGISTIC_RIDGE)
    else:
        beta[0], beta[-1] = mean[-1], scale[-1]  # the last scalar as it was, not standardised
    deep = model.head.layers
    last = deep[-1]
    assert isinstance(last, nn.Linear)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    model.head.layers = Wide(deep, beta)  # type: ignore[assignment]


def with_trees(prepared: Prepared, test: RequestDataset) -> tuple[Prepared, RequestDataset]:
    """One scalar more: the trees' logit, for a training row by trees that saw no row of its user."""
    train, validation = prepared.train, prepared.validation
    watched = validation.scalars, validation.requests.label

    def by(rows: npt.NDArray[np.bool_], of: npt.NDArray[np.float32]) -> Floats:
        found = trees((train.scalars[rows], train.requests.label[rows]), watched, of, num_threads=1)
        if found is None:
            raise InputError("LightGBM is not installed, or a fold has one class. pip install 'leitmotif[trees]'.")
        return found

    fold = train.requests.user_index[train.requests.request_of_row] % FOLDS
    own = np.zeros(len(train.scalars))
    for number in range(FOLDS):
        own[fold == number] = by(fold != number, train.scalars[fold == number])
    every = np.ones(len(fold), bool)
    shape = replace(prepared.shape, num_scalars=prepared.shape.num_scalars + 1)
    widened = replace(
        prepared,
        train=_with(train, own),
        validation=_with(validation, by(every, validation.scalars)),
        shape=shape,
    )
    return widened, _with(test, by(every, test.scalars))


def _with(part: RequestDataset, column: Floats) -> RequestDataset:
    scalars = np.column_stack([part.scalars, column]).astype(np.float32)
    return RequestDataset(part.spec, part.events, part.requests, scalars, part.counters)


def row(bench: Bench, model: str, start: str, fits: list[Arrays], bar: list[Arrays]) -> dict[str, Any]:
    """Means over seeds, and the differences to the model without a head start, with intervals over users."""
    requests, draws = bench.requests, bench.sections["evaluate"].num_bootstrap
    user_of_request, weights_RU = draw_weights(requests, draws, 1)
    users = user_of_request[requests.request_of_row]
    found: dict[str, Any] = {"model": model, "start": start, "seeds": len(fits)}
    ours, theirs = ([each["logits"].astype(np.float64) for each in part] for part in (fits, bar))

    def add(figure: str, value: Callable[[Floats], float], drawn: Callable[[list[Floats]], npt.NDArray[Any]]) -> None:
        own, of_bar = (np.array([value(logits) for logits in part]) for part in (ours, theirs))
        found[figure] = own.mean()
        if start != "plain":
            apart = with_interval(f"{figure}_minus_plain", (own - of_bar).mean(), drawn(ours) - drawn(theirs))
            found.update(apart | {f"{figure}_of_seeds": [round(each, 4) for each in (own - of_bar).tolist()]})

    add(
        "auc",
        lambda logits: auc(logits, requests.label),
        lambda part: np.mean([bootstrap_auc(each, requests.label, users, weights_RU) for each in part], axis=0),
    )
    add(
        "iauc",
        lambda logits: iauc(logits, requests.label, requests.request_of_row),
        lambda part: bootstrap_iauc(part, requests, draws, 1),
    )
    if start in STARTS:
        found["what"] = STARTS[start]
        found["validation_iauc"] = float(np.mean([each["validation_iauc"] for each in fits]))
    return found


if __name__ == "__main__":
    main()
