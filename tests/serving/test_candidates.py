"""Sources of candidates: near the current themes' vectors, popular in these themes, new in them."""

import numpy as np
import pyarrow as pa
import pytest

from serving.answering.candidates import POOLED, Interest, find, interests
from serving.answering.offers import Offers
from serving.bundle.index import BLOCK, COLUMNS, ItemIndex, best
from serving.params import RetrievalParams
from tests.serving.limits import RETRIEVAL

NUM, WIDTH, THEMES = 60, 4, 3
PARAMS = RETRIEVAL.model_copy(update={"num_candidates": 20, "num_themes": 2, "new_share": 0.2, "popular_share": 0.3})


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture
def index(rng: np.random.Generator) -> ItemIndex:
    vector = rng.standard_normal((NUM, WIDTH)).astype(np.float32)
    names = [f"i{row}" for row in range(NUM)]
    return ItemIndex(
        item_ids=names,
        row_of={name: row for row, name in enumerate(names)},
        index_N=np.arange(NUM) + 2,
        vector_ND=vector,
        unit_ND=vector / np.linalg.norm(vector, axis=1, keepdims=True),
        catalogue=pa.table(
            {"item_id": names, "title": names, "categories": [[]] * NUM, "published_at": [0] * NUM}, schema=COLUMNS
        ),
    )


@pytest.fixture
def offers(rng: np.random.Generator) -> Offers:
    return Offers(
        on_offer_N=np.ones(NUM, bool),
        clicks_N=rng.integers(1, 100, NUM),
        born_N=rng.integers(0, 1000, NUM),
        new_N=np.arange(NUM) % 5 == 0,
        routing_NT=np.eye(THEMES, dtype=np.float32)[np.arange(NUM) % THEMES],
    )


ALL = np.ones(NUM, bool)


def test_the_themes_are_the_user_s_largest_and_each_has_its_own_newest_events(index: ItemIndex) -> None:
    rows = np.array([0, 1, 3, 4, -1, 6])
    routing = np.eye(THEMES, dtype=np.float32)[[0, 1, 0, 1, 1, 0]]
    found = interests(PARAMS, index, rows, routing, np.array([0.6, 0.2, 0.1], np.float32))
    assert [(each.theme, round(each.share, 4)) for each in found] == [(0, 0.75), (1, 0.25)]
    np.testing.assert_allclose(found[0].query_D, index.vector_ND[[0, 3, 6]].mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(found[1].query_D, index.vector_ND[[1, 4]].mean(axis=0), rtol=1e-6)
    only = PARAMS.model_copy(update={"num_recent": 1})
    newest = interests(only, index, rows, routing, np.array([0.6, 0.2, 0.1], np.float32))
    np.testing.assert_array_equal(newest[0].query_D, index.vector_ND[6])


def test_a_model_without_themes_has_one_interest_and_an_unknown_user_none(index: ItemIndex) -> None:
    none = np.zeros((2, 0), np.float32)
    (one,) = interests(PARAMS, index, np.array([2, 5]), none, np.zeros(0, np.float32))
    assert (one.theme, one.share) == (POOLED, 1.0)
    np.testing.assert_allclose(one.query_D, index.vector_ND[[2, 5]].mean(axis=0), rtol=1e-6)
    assert interests(PARAMS, index, np.zeros(0, np.int64), none[:0], np.ones(THEMES, np.float32)) == []


def test_each_theme_finds_the_nearest_of_its_items_by_its_share(index: ItemIndex, offers: Offers) -> None:
    params = PARAMS.model_copy(update={"popular_share": 0.0, "new_share": 0.0, "theme_weight": 100.0})
    queries = index.vector_ND[[0, 1]]
    found = find(params, index, offers, [Interest(0, 0.75, queries[0]), Interest(1, 0.25, queries[1])], ALL)
    for theme, number, query in ((0, 15, queries[0]), (1, 5, queries[1])):
        own = [row for row in found if row % THEMES == theme]
        slow = sorted(range(theme, NUM, THEMES), key=lambda row: -float(index.vector_ND[row] @ query))
        assert set(own) == set(slow[:number])
    assert set(found.values()) == {"theme"}


def test_popular_and_new_are_of_the_current_themes_and_say_what_they_are(index: ItemIndex, offers: Offers) -> None:
    found = find(PARAMS, index, offers, [Interest(0, 1.0, index.vector_ND[0])], ALL)
    assert len(found) == PARAMS.num_candidates
    assert set(found.values()) == {"theme", "popular", "new"}
    assert all(offers.new_N[row] for row, source in found.items() if source == "new")
    assert all(row % THEMES == 0 for row, source in found.items() if source == "popular")


def test_shares_that_are_rounded_find_no_more_than_the_model_may_rank(index: ItemIndex, offers: Offers) -> None:
    for shares in ([0.55, 0.45], [0.25, 0.75], [0.35, 0.35, 0.3], [0.26] * 3 + [0.22], [0.15, 0.85]):
        found = [Interest(place % THEMES, share, index.vector_ND[place]) for place, share in enumerate(shares)]
        for num in range(1, 41):
            params = PARAMS.model_copy(update={"num_candidates": num})
            assert len(find(params, index, offers, found, ALL)) == num


def test_items_not_allowed_are_never_found_and_open_places_are_filled_by_the_most_clicked(
    index: ItemIndex, offers: Offers
) -> None:
    among = np.zeros(NUM, bool)
    among[30:42] = True
    found = find(PARAMS, index, offers, [Interest(0, 1.0, index.vector_ND[0])], among)
    assert set(found) == set(range(30, 42))
    assert find(PARAMS, index, offers, [], np.zeros(NUM, bool)) == {}


def test_a_theme_without_events_of_the_user_finds_its_popular_items(index: ItemIndex, offers: Offers) -> None:
    found = find(PARAMS, index, offers, [Interest(2, 1.0, None)], ALL)
    assert "theme" not in found.values()
    first = next(iter(found))
    assert first == max(range(2, NUM, THEMES), key=lambda row: int(offers.clicks_N[row]))


def test_an_unknown_user_gets_the_newest_and_the_most_clicked_items(index: ItemIndex, offers: Offers) -> None:
    found = find(PARAMS, index, offers, [], ALL)
    new = {row for row, source in found.items() if source == "new"}
    newest = sorted(np.flatnonzero(offers.new_N).tolist(), key=lambda row: -int(offers.born_N[row]))
    assert new == set(newest[:4])
    rest = sorted(set(range(NUM)) - new, key=lambda row: -int(offers.clicks_N[row]))
    assert sorted(offers.clicks_N[list(set(found) - new)]) == sorted(offers.clicks_N[rest[:16]])


def test_best_is_a_stable_sort_cut_short(rng: np.random.Generator) -> None:
    score, among = rng.integers(0, 6, 200).astype(np.float32), rng.random(200) < 0.5
    wanted = [row for row in np.argsort(-score, kind="stable").tolist() if among[row]]
    for num in (0, 1, 7, 150, 200):
        assert best(score, among, num).tolist() == wanted[:num]


@pytest.mark.parametrize("num_scores", [3, 5_000, 1_000_000])
def test_best_of_a_large_catalogue_is_the_same(rng: np.random.Generator, num_scores: int) -> None:
    num = 20 * BLOCK + 7
    score, among = rng.integers(0, num_scores, num).astype(np.float32), rng.random(num) < 0.9
    score[-1], among[-1] = num_scores, True  # the last rows are of no whole block
    wanted = [row for row in np.argsort(-score, kind="stable").tolist() if among[row]]
    for few in (0, 1, 7, 19, 40):
        assert best(score, among, few).tolist() == wanted[:few]


@pytest.mark.parametrize(
    ("changes", "says"),
    [({"popular_share": 0.7, "new_share": 0.4}, "together they may be 1 at most"), ({"diversity": 1.5}, "diversity")],
)
def test_params_that_do_not_fit_are_refused(changes: dict, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        RetrievalParams(**RETRIEVAL.model_dump() | changes)
