"""A track's parts -> each baseline's scores of the test candidates, with metrics and intervals.

Every contender is fitted on the train part, tuned and calibrated on the validation part, and measured on the test part.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

from benchmarks.tracks import Part, Track
from benchmarks.trees import Objective, Trees
from contracts.errors import InputError
from training.judging.measure import Scored, bootstrap_iauc, measure, with_interval
from training.metrics import fit_logistic, iauc, sigmoid
from training.requests.reader import Requests

FIGURES = ("iauc", "gauc", "auc", "logloss")
RIDGES = (1.0, 1000.0)
Floats = npt.NDArray[np.floating]


@dataclass(frozen=True)
class Contender:
    """One row of the table."""

    name: str
    scored: list[Scored]  # one a seed
    note: str = ""


def floors(track: Track, popularity_window_s: int | None) -> list[Contender]:
    """One scalar each, no fitting but that of its probabilities."""
    scope = "total" if popularity_window_s is None else f"{popularity_window_s}s"
    if scope not in track.spec.scopes:
        raise InputError(
            f"evaluate.popularity_window_s is {popularity_window_s}, and statistics.windows_s "
            f"{list(track.spec.windows_s)} lack it. Add it there."
        )
    said = "all time" if popularity_window_s is None else f"trailing {popularity_window_s:,} s"
    columns = {
        "popularity_clicks": ("clicks", f"item_clicks_{scope}", 1),
        "smoothed_rate": ("clicks per show", f"item_rate_{scope}", 1),
        "recency": ("hours since first shown, fewest first", "item_age", -1),
    }
    made = []
    for name, (what, column, sign) in columns.items():
        values = [sign * track.column(part, column).astype(np.float64) for part in (track.validation, track.test)]
        note = what if name == "recency" else f"{what}, {said}"
        made.append(Contender(name, [calibrated(values[0], values[1], track.validation.label)], note))
    lengths = [-np.log1p(part.sizes)[part.requests.request_of_row] for part in (track.validation, track.test)]
    length = calibrated(lengths[0], lengths[1], track.validation.label)
    return [*made, Contender("list_length", [length], "the shorter the list, the likelier each click")]


def logistic(track: Track) -> Contender:
    """All scalars, standardised; the ridge chosen by validation iAUC."""
    mean, scale = track.train.scalars.mean(axis=0, dtype=np.float64), track.train.scalars.std(axis=0, dtype=np.float64)
    scale[scale < 1e-6] = 1.0

    def prepared(part: Part) -> Floats:
        return (part.scalars - mean) / scale

    x, labels, validation = prepared(track.train), track.train.label, track.validation
    request = validation.requests.request_of_row
    betas = {ridge: fit_logistic(x, labels, ridge) for ridge in RIDGES}
    found = {
        ridge: iauc(beta[0] + prepared(validation) @ beta[1:], validation.label, request)
        for ridge, beta in betas.items()
    }
    ridge = max(found, key=lambda each: found[each])
    logits = betas[ridge][0] + prepared(track.test) @ betas[ridge][1:]
    return Contender("logistic", [Scored(logits, sigmoid(logits))], f"ridge {ridge:g}")


def trees(track: Track, objective: Objective, fitted: list[Trees]) -> Contender:
    """LightGBM on all scalars, as fit_seeds fitted it."""
    scored = [
        calibrated(each.score(track.validation), each.score(track.test), track.validation.label) for each in fitted
    ]
    rounds = "/".join(str(each.booster.best_iteration) for each in fitted)
    name = "trees" if objective == "binary" else "trees_lambdarank"
    return Contender(name, scored, f"{objective}, {fitted[0].settings['num_leaves']} leaves, {rounds} rounds")


def blend(name: str, *contenders: Contender) -> Contender:
    """The mean of their log odds, equal weights, seed by seed (a contender of one seed stands beside each)."""
    number = max(len(each.scored) for each in contenders)
    groups = [[one.scored[seed % len(one.scored)] for one in contenders] for seed in range(number)]
    logits = [np.mean([log_odds(each.probability) for each in group], axis=0) for group in groups]
    return Contender(
        name,
        [Scored(each, sigmoid(each)) for each in logits],
        f"mean log odds of {', '.join(each.name for each in contenders)}",
    )


def graph_models(path: str, test: Requests, names: tuple[str, ...]) -> list[Contender]:
    """What evaluate left in predictions.parquet; it must hold this test part, row by row."""
    table = pq.read_table(path)
    order = np.argsort(test.request_index, kind="stable")
    test = test.take(order)
    same = table.num_rows == len(test.label) and np.array_equal(table["item_index"].to_numpy(), test.item_index)
    if not same or not np.array_equal(table["request_index"].to_numpy(), test.request_index[test.request_of_row]):
        raise InputError(f"{path} holds other requests than the test part of now. Run `dvc repro evaluate`.")
    if not (order[1:] > order[:-1]).all():
        raise InputError("Requests are not numbered in order of time. Run `dvc repro histories`.")
    logits = {name: table[name].to_numpy().astype(np.float64) for name in names}
    return [Contender(name, [Scored(each, sigmoid(each))], "the graph's own") for name, each in logits.items()]


def calibrated(validation: Floats, test: Floats, validation_label: Floats) -> Scored:
    """Test scores with probabilities from a logistic curve fitted on the validation part."""
    mean, scale = float(validation.mean()), max(float(validation.std()), 1e-6)
    beta = fit_logistic((validation - mean) / scale, validation_label)
    return Scored(test, sigmoid(beta[0] + beta[1] * (test - mean) / scale))


def figures(contender: Contender, requests: Requests, num_bootstrap: int, seed: int) -> dict[str, float | str | int]:
    """Means over seeds, the standard deviation of iAUC over seeds, and its interval, bootstrapped over users."""
    each = [measure(scored, requests) for scored in contender.scored]
    row: dict[str, float | str | int] = {"model": contender.name, "seeds": len(each)}
    values = {name: float(np.mean([one[name] for one in each])) for name in FIGURES}
    drawn = bootstrap_iauc([scored.score for scored in contender.scored], requests, num_bootstrap, seed)
    row |= with_interval("iauc", values["iauc"], drawn)
    row["iauc_sd"] = float(np.std([one["iauc"] for one in each], ddof=1)) if len(each) > 1 else 0.0
    softmaxed = [measure(within_request(scored, requests), requests) for scored in contender.scored]
    return (
        row
        | {name: values[name] for name in FIGURES[1:]}
        | {
            "auc_softmax": float(np.mean([one["auc"] for one in softmaxed])),
            "logloss_softmax": float(np.mean([one["logloss"] for one in softmaxed])),
        }
    )


def against(
    contender: Contender, bar: Contender, requests: Requests, num_bootstrap: int, seed: int
) -> Mapping[str, float]:
    """iAUC minus the bar's, both meaned over seeds, with a paired interval: the same draws of users."""
    draws = [bootstrap_iauc([s.score for s in one.scored], requests, num_bootstrap, seed) for one in (contender, bar)]
    means = [
        np.mean([iauc(s.score, requests.label, requests.request_of_row) for s in one.scored])
        for one in (contender, bar)
    ]
    return with_interval(f"minus_{bar.name}", float(means[0] - means[1]), draws[0] - draws[1])


def within_request(scored: Scored, requests: Requests) -> Scored:
    """Softmax of the log odds over a request's candidates."""
    logits, starts = log_odds(scored.probability), requests.row_starts[:-1]
    if not len(logits):
        return scored
    weight = np.exp(logits - np.maximum.reduceat(logits, starts)[requests.request_of_row])
    share = weight / np.add.reduceat(weight, starts)[requests.request_of_row]
    return Scored(share, share)


def log_odds(probability: Floats) -> Floats:
    p = np.clip(np.asarray(probability, np.float64), 1e-12, 1 - 1e-12)
    return np.log(p) - np.log1p(-p)
