"""Synthetic catalogues of up to a million items -> CPU time of retrieval's exact search, beside faiss if it is here.

`python -m benchmarks.catalogue_size`: the search of /recommend (candidates.find), one exact query of one theme, and
what a worker reads of the whole catalogue once a minute. Vectors are clustered, 0.9 of the items are on offer. Where
faiss-cpu is installed (it is no requirement), an inverted file (IVF) answers the same queries of one theme: its CPU
time, the seconds that it takes to build, and its recall against exact search. Times are medians of one thread's CPU.
"""

import argparse
import importlib
import json
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from benchmarks.table import command, hardware
from contracts.params import load_params
from contracts.publish import write_json
from features.encoding.as_of import AsOfCounter
from features.live.clock import Clock
from features.online.live_counters import Ids
from serving.answering.candidates import Interest, find
from serving.answering.offers import Offering, Offers
from serving.bundle.index import COLUMNS, ItemIndex, best
from serving.params import RetrievalParams

RESULT = Path(__file__).parent / "results" / "catalogue_size.json"
SIZES = (3_000, 50_000, 200_000, 1_000_000)
WIDTH, THEMES, CLUSTERS = 16, 16, 256
INTERESTS, NEWEST, WANTED = 4, 5, 40
ROWS_OF_AN_ITEM = 5
DAY_US = 86_400_000_000
NUM_LISTS = 1024
PROBES = (8, 32, 128)

Float32 = npt.NDArray[np.float32]


def main() -> None:
    """Print one JSON object, and write it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.catalogue_size", description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    parser.add_argument("--queries", type=int, default=20)
    parser.add_argument("--result", type=Path, default=RESULT)
    options = parser.parse_args()
    params = load_params()["serve"].retrieval
    report = {
        "setting": {
            "command": command(),
            "hardware": hardware(),
            "width": WIDTH,
            "themes": THEMES,
            "interests": INTERESTS,
            "retrieval": params.model_dump(),
        },
        "sizes": [measure(params, number, options.queries) for number in options.sizes],
    }
    write_json(options.result, report)
    print(json.dumps(report, indent=1))


def measure(params: RetrievalParams, num: int, num_queries: int) -> dict[str, Any]:
    """Median CPU ms of each way for a catalogue of this size."""
    rng = np.random.default_rng(0)
    index, offers = drawn(rng, num)
    users = [interests(rng, index) for _ in range(num_queries)]
    offering = offering_of(rng, params, index, offers)
    reads = [timed(lambda at=at: offering.at(21 * DAY_US + at * 60_000_000)) for at in range(3)]
    exact = [one_query(params, index, offers, user[0]) for user in users]
    told: dict[str, Any] = {
        "items": num,
        "find_ms": median(
            [timed(lambda user=user: find(params, index, offers, user, offers.on_offer_N)) for user in users]
        ),
        "one_query_ms": median([timed(lambda user=user: one_query(params, index, offers, user[0])) for user in users]),
        "first_read_ms": round(reads[0], 2),
        "read_each_minute_ms": median(reads[1:]),
    }
    return told | faiss_beside(params, index, offers, [user[0] for user in users], exact)


def drawn(rng: np.random.Generator, num: int) -> tuple[ItemIndex, Offers]:
    """A catalogue with vectors in clusters, each item mostly of few themes, a fifth of them clicked."""
    centre = rng.standard_normal((CLUSTERS, WIDTH), np.float32)
    vector_ND = (centre[rng.integers(0, CLUSTERS, num)] + rng.standard_normal((num, WIDTH)) / 2).astype(np.float32)
    routing_NT = rng.random((num, THEMES), np.float32) ** 4
    item_ids = [f"item-{row:08d}" for row in range(num)]
    columns = [item_ids, [None] * num, [[]] * num, [None] * num]
    vocabulary: Any = SimpleNamespace(index_of={item_id: row for row, item_id in enumerate(item_ids)})
    offers = Offers(
        on_offer_N=rng.random(num) < 0.9,
        clicks_N=np.where(rng.random(num) < 0.2, rng.zipf(1.5, num).clip(0, 1_000_000), 0),
        born_N=np.zeros(num, np.int64),
        new_N=rng.random(num) < 0.01,
        routing_NT=np.asfortranarray(routing_NT / routing_NT.sum(axis=1, keepdims=True)),
    )
    catalogue = pa.table(
        [pa.array(each, field.type) for each, field in zip(columns, COLUMNS, strict=True)], schema=COLUMNS
    )
    return ItemIndex.of(vocabulary, vector_ND, catalogue), offers


def interests(rng: np.random.Generator, index: ItemIndex) -> list[Interest]:
    """A user's current themes with equal shares, each with the mean of a few items."""
    themes, vector_ND = rng.permutation(THEMES)[:INTERESTS].tolist(), index.vector_ND
    return [
        Interest(theme, 1 / INTERESTS, vector_ND[rng.integers(0, len(vector_ND), NEWEST)].mean(axis=0))
        for theme in themes
    ]


def offering_of(rng: np.random.Generator, params: RetrievalParams, index: ItemIndex, offers: Offers) -> Offering:
    """The offering over ROWS_OF_AN_ITEM rows of counters an item, of three weeks."""
    num = len(index.item_ids)
    keys, at = (
        rng.integers(0, num, ROWS_OF_AN_ITEM * num),
        rng.integers(0, 21 * 1440, ROWS_OF_AN_ITEM * num) * 60_000_000,
    )
    packed = np.unique(keys * (DAY_US * 21) + at)
    counts = np.arange(1, len(packed) + 1)
    table = AsOfCounter.from_rows(packed // (DAY_US * 21), packed % (DAY_US * 21), counts, counts // 10)
    assert table.clicked_at is not None  # a worker finds it on its disk
    _ = table.shown_row
    scorer = SimpleNamespace(
        spec=SimpleNamespace(shows_lag_s=0.0, clicks_lag_s=0.0, code_width=0, coclick_rank=0),
        reads_codes=False,
        themes=lambda index_N, _: np.ascontiguousarray(offers.routing_NT)[index_N],
    )
    bundle: Any = SimpleNamespace(
        index=index, scorer=scorer, manifest=SimpleNamespace(limits=SimpleNamespace(retrieval=params))
    )
    store: Any = SimpleNamespace(
        counters=SimpleNamespace(item_counters=table, coclicks=None),
        item_keys=Ids(dict(index.row_of)).keys,
        clock=Clock(),
    )
    return Offering(bundle, store)


def one_query(params: RetrievalParams, index: ItemIndex, offers: Offers, interest: Interest) -> npt.NDArray[np.int64]:
    """The WANTED items on offer that are nearest to one theme, as `find` scores them."""
    assert interest.query_D is not None
    close_N = index.vector_ND @ interest.query_D + params.theme_weight * offers.routing_NT[:, interest.theme]
    return best(close_N, offers.on_offer_N, WANTED)


def faiss_beside(
    params: RetrievalParams, index: ItemIndex, offers: Offers, asked: list[Interest], exact: list[npt.NDArray[np.int64]]
) -> dict[str, Any]:
    """An inverted file over [vector, routing], in which the score is one product; {} without faiss."""
    try:
        faiss: Any = importlib.import_module("faiss")
    except ModuleNotFoundError:
        return {}
    if len(index.item_ids) < 100 * NUM_LISTS:
        return {}
    faiss.omp_set_num_threads(1)
    rows = np.flatnonzero(offers.on_offer_N)
    whole = np.ascontiguousarray(np.concatenate([index.vector_ND, offers.routing_NT], axis=1)[rows])
    began = time.thread_time()
    lists = faiss.index_factory(whole.shape[1], f"IVF{NUM_LISTS},Flat", faiss.METRIC_INNER_PRODUCT)
    lists.train(whole)
    lists.add(whole)
    told: dict[str, Any] = {"faiss_build_s": round(time.thread_time() - began, 1)}
    for probes in PROBES:
        lists.nprobe = probes
        times, recalls = [], []
        for interest, wanted in zip(asked, exact, strict=True):
            assert interest.query_D is not None
            query = np.concatenate([interest.query_D, params.theme_weight * np.eye(THEMES)[interest.theme]])
            query = query.astype(np.float32)[None]
            times.append(timed(lambda query=query: lists.search(query, WANTED)))
            found = rows[lists.search(query, WANTED)[1][0]]
            recalls.append(len(np.intersect1d(found, wanted)) / WANTED)
        told[f"faiss_{probes}_of_{NUM_LISTS}_lists"] = {
            "one_query_ms": median(times),
            f"recall_at_{WANTED}": round(float(np.mean(recalls)), 4),
        }
    return told


def timed(work: Callable[[], object]) -> float:
    """CPU milliseconds of this thread."""
    began = time.thread_time()
    work()
    return 1e3 * (time.thread_time() - began)


def median(values: list[float]) -> float:
    """Of milliseconds, rounded."""
    return round(float(np.median(values)), 2)


if __name__ == "__main__":
    main()
