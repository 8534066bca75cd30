"""Which items and categories have rows of their own."""

import numpy as np

from tests.training.contexts import no_contexts
from training.requests.catalogue import Vocabulary, count_items, fit_tables
from training.requests.reader import Events, Requests


def vocabulary(categories):
    """Items from index 2 on with these category names."""
    names = sorted({name for names in categories for name in names})
    pairs = [(2 + item, names.index(name)) for item, of_item in enumerate(categories) for name in of_item]
    item, category = np.array(pairs, np.int64).reshape(-1, 2).T
    return Vocabulary([f"i{n}" for n in range(len(categories))], item, category, names)


def test_items_seen_too_rarely_share_the_unknown_row():
    tables = fit_tables(vocabulary([[], [], []]), np.array([0, 0, 2, 1, 0]), min_item_events=2, min_category_events=2)
    assert tables.row_of_item.tolist() == [0, 1, 2, 1, 1]
    assert tables.num_cold_items == 2
    assert tables.item_categories.tolist() == [[0]] * 5
    assert tables.num_categories == 1


def test_an_item_has_its_most_frequent_categories_first_and_unseen_ones_not_at_all():
    # b is seen 5 + 1 times, a 5, c 0
    tables = fit_tables(
        vocabulary([["a", "b"], ["b", "c"], ["c"]]), np.array([0, 0, 5, 1, 0]), min_item_events=2, min_category_events=2
    )
    assert tables.num_categories == 3  # none, a, b
    assert tables.item_categories.tolist() == [[0, 0], [0, 0], [2, 1], [2, 0], [0, 0]]


def test_blanking_all_ids_keeps_the_categories_and_the_reverse():
    items = vocabulary([["a", "b"], ["b", "c"], ["c"]]), np.array([0, 0, 5, 1, 0])
    blanked = fit_tables(*items, min_item_events=1_000_000, min_category_events=2)
    assert blanked.row_of_item.tolist() == [0, 1, 1, 1, 1]
    assert blanked.item_categories.tolist() == [[0, 0], [0, 0], [2, 1], [2, 0], [0, 0]]
    kept = fit_tables(*items, min_item_events=1, min_category_events=1_000_000)
    assert kept.row_of_item.tolist() == [0, 1, 2, 3, 1]
    assert (kept.num_categories, kept.item_categories.any()) == (1, False)


def test_at_most_sixteen_categories_of_an_item_are_kept():
    names = [f"c{n:02}" for n in range(20)]
    tables = fit_tables(
        vocabulary([names, names[:3]]), np.array([0, 0, 4, 4]), min_item_events=2, min_category_events=2
    )
    assert tables.item_categories.shape == (4, 16)
    assert set(tables.item_categories[3][tables.item_categories[3] > 0]) == {1, 2, 3}


def test_items_count_as_seen_in_candidates_and_in_the_windows_of_histories_only():
    events = Events(
        item_index=np.array([5, 2, 3, 4, 6], np.int32),
        occurred_at=np.arange(5),
        label=np.ones(5, np.float32),
        session=np.zeros(5, np.int32),
        offsets=np.array([0, 5]),
    )
    requests = Requests(
        request_index=np.array([0, 1]),
        user_index=np.array([0, 0]),
        at=np.array([3, 4]),
        starts=np.array([0, 0]),
        ends=np.array([3, 4]),
        row_starts=np.array([0, 1, 2]),
        item_index=np.array([7, 7]),
        label=np.zeros(2, np.float32),
        **no_contexts(2),
    )
    # windows of 2: events [1, 3) and [2, 4): items 2 3 4, once each; candidate 7 twice; 5 too old, 6 not yet
    assert count_items(requests, events, 2, 8).tolist() == [0, 0, 1, 1, 1, 0, 0, 2]
