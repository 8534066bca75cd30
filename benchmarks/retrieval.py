"""A simulated run -> recall of retrieval and worth of lists, by source of candidates and by mixing.

`python -m benchmarks.retrieval`: requests of the test window, as of their times, through the code of /recommend. For
each way of finding candidates: how many of the 20 that the model ranks first of all items on offer are among them, how
many of the items that the user did click, and what the list of 10 is worth in the simulated world: the mean probability
of a click, in the session's theme, which no log shows. Times are of this machine, cases interleaved.
"""

import argparse
import json
import os
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow.parquet as pq

from benchmarks.world import World, check, number, read_requests
from contracts.params import load_params
from contracts.publish import write_json
from features.terms.convention import is_click
from serving.answering import candidates
from serving.answering.predictor import Predictor, open_here
from serving.answering.recommend import Moment, RecommendRequest, allowed, look, recommend
from serving.answering.requests import to_iso
from serving.answering.shares import by_share
from serving.bundle.index import best
from serving.bundle.reading import read_codes
from serving.params import RetrievalParams

SEED = 0
REFERENCE, LISTED = 20, 10
BUDGETS = (50, 100, 200, 300)
DIVERSITIES = (0.0, 0.1, 0.2, 0.3, 0.4, 0.6, 0.8, 1.0)
Rows = Any


class Case(NamedTuple):
    """One request of the test window."""

    request: RecommendRequest
    moment: Moment
    found: list[candidates.Interest]
    among_N: Rows  # what may be recommended
    logit_N: Rows  # the model's, of all items on offer
    first: set[int]  # the REFERENCE that it ranks first of those that may be recommended
    clicked: set[int]  # what the user did click, of the same
    worth_N: Rows  # the probability of a click
    own_N: Rows  # which items are of the session's theme
    ordinal: int  # clicks of the session so far


def main() -> None:
    """Print and write one JSON object."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.retrieval", description=__doc__)
    parser.add_argument("--requests", type=int, default=500)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/retrieval.json"))
    options = parser.parse_args()
    params, predictor = load_params(), open_here()
    data = Path("data") / params["source"].id
    world = World.draw(params["simulator"], params["seed"])
    check(world, data)
    cases = draw(predictor, world, data, options.requests)
    told = predictor.limits.retrieval
    report = {
        "setting": {
            "requests": len(cases),
            "items": len(predictor.bundle.index.item_ids),
            "on_offer": round(float(np.mean([case.moment.offers.on_offer_N.sum() for case in cases]))),
            "after_a_hop": sum(case.ordinal < 3 for case in cases),
            "model_version": predictor.bundle.manifest.model_version,
            "retrieval": told.model_dump(),
            "cpus": os.cpu_count(),
            "command": f"python -m benchmarks.retrieval --requests {options.requests}",
        },
        "ways": {
            name: [measure(predictor, cases, way, budget) for budget in BUDGETS] for name, way in ways(told).items()
        },
        "diversity": {f"{value:g}": mixed(predictor, cases, value) for value in DIVERSITIES},
        "all_items": worth(predictor, cases, lambda case: case.among_N, 0.0),
        "time_ms": times(predictor, cases),
    }
    write_json(options.out, report)
    print(json.dumps(report, indent=1))


def draw(predictor: Predictor, world: World, data: Path, num: int) -> list[Case]:
    """Requests with a click, at random: half of them the first three after a hop, which a mean over all would hide."""
    told = read_requests(data)
    test = np.unique(pq.read_table(data / "predictions", columns=["request_index"])["request_index"].to_numpy())
    names = pq.read_table(data / "impressions" / "requests.parquet")["impression_id"].to_numpy(zero_copy_only=False)
    rows_of = {name: row for row, name in enumerate(told["name"])}
    truth = [rows_of[names[index]] for index in test]
    early = told["ordinal"][truth] < 3
    rng = np.random.default_rng(SEED)
    chosen = np.concatenate([rng.permutation(test[part])[: num // 2 * 2] for part in (early, ~early)])
    log = pq.read_table(data / "impressions" / "impressions.parquet", columns=["request_index", "item_index", "label"])
    index_B, item_B, label_B = (log[name].to_numpy() for name in log.column_names)
    cases, counts = [], defaultdict(int)
    for index in chosen:
        row, rows = rows_of[names[index]], slice(*np.searchsorted(index_B, [index, index + 1]))
        clicked = set((item_B[rows][is_click(label_B[rows])] - 2).tolist())
        part = bool(told["ordinal"][row] < 3)
        if clicked and counts[part] < num // 2 and (case := _case(predictor, world, told, row, clicked)):
            cases.append(case)
            counts[part] += 1
    return cases


def _case(predictor: Predictor, world: World, told: dict, row: int, clicked: set[int]) -> Case | None:
    user, theme, at = int(told["user"][row]), int(told["theme"][row]), int(told["at"][row])
    request = RecommendRequest(user_id=f"u{user:05d}", at=to_iso(at), k=LISTED, preview=True)
    moment, found = look(predictor, request)
    among_N = allowed(predictor, request, moment)
    if not found:
        return None
    item_ids = predictor.bundle.index.item_ids
    offered = np.flatnonzero(moment.offers.on_offer_N)
    logit_N = np.full(len(item_ids), -np.inf)
    _, scores = predictor.score(
        request.user_id, predictor.events(request.user_id), [item_ids[int(each)] for each in offered], at
    )
    logit_N[offered] = scores.logit_M
    numbers = np.array([number(name) for name in item_ids])
    return Case(
        request,
        moment,
        found,
        among_N,
        logit_N,
        set(best(logit_N, among_N, REFERENCE).tolist()),
        {item for item in clicked if among_N[item]},
        world.clicks(user, theme, at)[numbers],
        (world.items.theme == theme)[numbers],
        int(told["ordinal"][row]),
    )


Way = Callable[[Predictor, Case, int], Rows]


def ways(told: RetrievalParams) -> dict[str, Way]:
    """Name -> rows of a case's candidates, given how many."""

    def by_params(**changes: Any) -> Way:
        def found(predictor: Predictor, case: Case, budget: int) -> Rows:
            params = told.model_copy(update={"num_candidates": budget, **changes})
            interests = case.found
            if changes.keys() & {"num_recent", "num_themes"}:
                interests = _again(predictor, case, params)
            return list(candidates.find(params, predictor.bundle.index, case.moment.offers, interests, case.among_N))

        return found

    only = {"popular_share": 0.0, "new_share": 0.0}
    return {
        "served": by_params(),
        "themes alone": by_params(**only),
        "themes, vectors alone": by_params(**only, theme_weight=0.0),
        "popular and new in the themes": by_params(popular_share=0.7, new_share=0.3),
        "2 themes": by_params(num_themes=2),
        "6 themes": by_params(num_themes=6),
        "5 newest events": by_params(num_recent=5),
        "half popular": by_params(popular_share=0.5),
        "one pooled vector": lambda predictor, case, budget: pooled(predictor, case, budget, told.num_recent),
        "popularity": lambda predictor, case, budget: best(case.moment.offers.clicks_N, case.among_N, budget),
    }


def pooled(predictor: Predictor, case: Case, budget: int, num_recent: int) -> Rows:
    """The items nearest to the mean of the newest events, whatever their themes."""
    index = predictor.bundle.index
    rows = index.rows(case.moment.known.item_ids)
    return best(index.vector_ND @ index.vector_ND[rows[rows >= 0][-num_recent:]].mean(axis=0), case.among_N, budget)


def _again(predictor: Predictor, case: Case, params: RetrievalParams) -> list[candidates.Interest]:
    """A case's interests by other params."""
    scorer, index = predictor.bundle.scorer, predictor.bundle.index
    encoded = scorer.encode(case.moment.known, case.moment.at)
    codes, _ = read_codes(scorer, predictor.store, case.moment.known, [], case.moment.at)
    rows = index.rows(scorer.newest_events(case.moment.known, case.moment.at, scorer.spec.history_length).item_ids)
    routing_ET = scorer.routing(encoded, codes)[encoded.mask[0]]
    return candidates.interests(params, index, rows, routing_ET, case.moment.current_T)


def measure(predictor: Predictor, cases: list[Case], way: Way, budget: int) -> dict[str, float]:
    """Recalls of a way's candidates, and what a list of them is worth."""
    rows = [{int(row) for row in way(predictor, case, budget)} for case in cases]
    first = [len(found & case.first) / len(case.first) for found, case in zip(rows, cases, strict=True)]
    clicked = [
        len(found & case.clicked) / len(case.clicked) for found, case in zip(rows, cases, strict=True) if case.clicked
    ]
    diversity = predictor.limits.retrieval.diversity
    by_case = {id(case): found for case, found in zip(cases, rows, strict=True)}

    def among(case: Case) -> Rows:
        mask_N = np.zeros(len(case.among_N), bool)
        mask_N[list(by_case[id(case)])] = True
        return mask_N

    return {
        "candidates": budget,
        f"recall_of_the_first_{REFERENCE}": round(float(np.mean(first)), 4),
        "recall_of_clicks": round(float(np.mean(clicked)), 4),
        **worth(predictor, cases, among, diversity),
    }


def mixed(predictor: Predictor, cases: list[Case], diversity: float) -> dict[str, float]:
    """What the list is worth that is served with this diversity."""
    way = ways(predictor.limits.retrieval)["served"]
    budget = predictor.limits.retrieval.num_candidates

    def among(case: Case) -> Rows:
        mask_N = np.zeros(len(case.among_N), bool)
        mask_N[way(predictor, case, budget)] = True
        return mask_N

    return worth(predictor, cases, among, diversity)


def worth(predictor: Predictor, cases: list[Case], among: Callable[[Case], Rows], diversity: float) -> dict[str, float]:
    """Of the lists of 10 that model and mixing make of candidates; also of a session's first three requests alone."""
    clicks, own, kinds, early = [], [], [], []
    for case in cases:
        rows = best(case.logit_N, among(case), predictor.limits.retrieval.num_candidates)
        routing_MT = case.moment.offers.routing_NT[rows]
        probability_M = 1 / (1 + np.exp(-case.logit_N[rows]))
        listed = rows[by_share(probability_M, routing_MT, case.moment.current_T, LISTED, diversity)]
        clicks.append(case.worth_N[listed].mean())
        own.append(case.own_N[listed].mean())
        kinds.append(len(set(case.moment.offers.routing_NT[listed].argmax(axis=1).tolist())))
        early.append(case.ordinal < 3)
    is_early = np.array(early)
    return {
        "worth": round(float(np.mean(clicks)), 4),
        "worth_after_a_hop": round(float(np.mean(np.array(clicks)[is_early])), 4),
        "share_of_the_sessions_theme": round(float(np.mean(own)), 4),
        "themes_in_a_list": round(float(np.mean(kinds)), 2),
    }


def times(predictor: Predictor, cases: list[Case]) -> dict[str, float]:
    """Medians of a whole answer, of finding alone, and of ranking all that is on offer, in turn."""
    taken: dict[str, list[float]] = defaultdict(list)
    for case in cases[:200]:
        item_ids = predictor.bundle.index.item_ids
        offered = [item_ids[row] for row in np.flatnonzero(case.among_N).tolist()]
        events = predictor.events(case.request.user_id)
        work: dict[str, Callable[[], Any]] = {
            "recommend": lambda case=case: recommend(predictor, case.request),
            "find": lambda case=case: candidates.find(
                predictor.limits.retrieval, predictor.bundle.index, case.moment.offers, case.found, case.among_N
            ),
            "score_all_on_offer": lambda case=case, offered=offered, events=events: predictor.score(
                case.request.user_id, events, offered, case.moment.at
            ),
        }
        for name, one in work.items():
            began = time.perf_counter()
            one()
            taken[name].append(1e3 * (time.perf_counter() - began))
    return {f"{name}_p50": round(float(np.median(values)), 2) for name, values in taken.items()}


if __name__ == "__main__":
    main()
