"""On EB-NeRD, co-clicks against the published files: who clicked a candidate before, and factors of earlier clicks."""

from bisect import bisect_left, bisect_right
from pathlib import Path

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from contracts.schema import FIRST_INDEX
from features.counts.factors import user_factors
from features.encoding.asked import NO_KEY, Asked
from features.encoding.coclicks import Coclicks
from features.encoding.counters import Counters
from features.encoding.encode import FeatureSpec
from features.terms.convention import RECENT
from tests.features import published
from tests.features.ebnerd_ids import ids, in_published_order
from training.requests.batches import read_scalars
from training.requests.reader import Requests, load_events

pytestmark = [pytest.mark.xdist_group("ebnerd"), pytest.mark.slow]

SECOND = 1_000_000
NUM_SAMPLED = 300
CHECKED_PERIODS = slice(1, None, 4)
SHRINKAGE = 1
DAY_US = 86_400 * SECOND

Vector = npt.NDArray[np.float64]
Factors = dict[int, dict[str, Vector]]
"""Start of the period -> user -> factor."""


@pytest.fixture(scope="module")
def factors(ebnerd: Path, ebnerd_spec: FeatureSpec) -> Factors:
    table = pq.read_table(ebnerd / "coclicks" / "factors.parquet")
    flat = table["factor"].combine_chunks().flatten().to_numpy().reshape(-1, ebnerd_spec.coclick_rank)
    found: Factors = {}
    starts = table["starts_at"].cast(pa.int64()).to_pylist()
    for start, user, factor in zip(starts, table["user_id"].to_pylist(), flat.astype(float), strict=True):
        found.setdefault(start, {})[user] = factor
    return found


def cosine(one: Vector, other: Vector) -> float:
    length = float(np.linalg.norm(one) * np.linalg.norm(other))
    return float(one @ other) / length if length else 0.0


def test_a_candidate_is_compared_by_those_who_clicked_it_before(
    ebnerd: Path,
    ebnerd_spec: FeatureSpec,
    published_log: duckdb.DuckDBPyConnection,
    ebnerd_requests: Requests,
    factors: Factors,
) -> None:
    """Requests drawn from all, click by click: with the user, the last 1, 3 and 10 clicks and the page."""
    drawn = np.sort(np.random.default_rng(3).choice(len(ebnerd_requests), NUM_SAMPLED, replace=False))
    requests = ebnerd_requests.take(drawn)
    names, item_ids, user_ids = ids(ebnerd)
    counters = Counters.from_folder(ebnerd, item_ids, user_ids)
    made = read_scalars(ebnerd_spec, load_events(ebnerd), requests, counters)
    columns = [ebnerd_spec.scalars.index(f"coclick_{what}") for what in ("user", "last_1", "last_3", "last_10", "read")]
    asked = {name: (user, at) for name, user, at in published.requests(published_log)}
    readers, pages = published.readers(published_log), published.reading(published_log)
    own_clicks, starts = published.clicks_of_users(published_log), sorted(factors)
    items = item_ids.take(pa.array(requests.item_index - FIRST_INDEX)).to_pylist()
    nothing = np.zeros(ebnerd_spec.coclick_rank)
    wanted = []
    for row, name in enumerate(names.take(pa.array(requests.request_index)).to_pylist()):
        user, at = asked[name]
        known_at = at - 300 * SECOND
        of_user = factors[starts[bisect_right(starts, known_at) - 1]]

        def vector(item: str | None, known_at: int = known_at, of_user: dict[str, Vector] = of_user) -> Vector:
            before = [who for when, who in readers.get(item or "", []) if when < known_at]
            known = [of_user[who] for who in before if who in of_user]
            return np.sum([nothing, *known], axis=0) / (len(before) + SHRINKAGE)

        times, clicked = own_clicks[user]
        recent = [vector(item) for item in clicked[: bisect_left(times, at - 60 * SECOND)][-RECENT:]]
        of_clicks = [np.sum([nothing, *recent[-span:]], axis=0) for span in (1, 3, 10)]
        others = [of_user.get(user, nothing), *of_clicks, vector(pages[name])]
        for item in items[requests.row_starts[row] : requests.row_starts[row + 1]]:
            own = vector(item)
            wanted.append([cosine(own, other) for other in others])
    assert (np.std(wanted, axis=0) > 0.1).all(), "each column varies"
    np.testing.assert_allclose(made[:, columns], wanted, atol=1e-6)


def test_as_many_have_clicked_each_candidate_as_sql_counts(
    ebnerd: Path, ebnerd_spec: FeatureSpec, published_log: duckdb.DuckDBPyConnection, ebnerd_requests: Requests
) -> None:
    """All requests. Readers all have (1, 0) and one who clicked every item long ago (0, 1): n readers make (n, 1)."""
    _, item_ids, user_ids = ids(ebnerd)
    real = Coclicks.from_folder(ebnerd / "coclicks", item_ids, user_ids)
    assert real is not None
    once = np.arange(len(item_ids))
    everyone = len(user_ids)
    items, times = np.r_[once, real.items], np.r_[np.zeros_like(once), real.times]
    users = np.r_[np.full(len(once), everyone), real.users]
    order = np.lexsort((users, times, items))
    made = np.zeros((1, everyone + 1, 2), np.int8)
    made[0, :everyone, 0] = made[0, everyone, 1] = 1
    counting = Coclicks(items[order], times[order], users[order], np.zeros(1, np.int64), made, made)
    num = len(ebnerd_requests)
    asked = Asked(
        user_keys=np.full(num, everyone),
        at=ebnerd_requests.at,
        recent=np.full((num, RECENT), NO_KEY),
        reading=np.full(num, NO_KEY),
        is_subscriber=np.zeros(num, bool),
        device=np.full(num, ""),
    )
    keys = ebnerd_requests.item_index.astype(np.int64) - FIRST_INDEX
    lag_us = round(ebnerd_spec.clicks_lag_s * SECOND)
    alike = counting.columns(keys, ebnerd_requests.request_of_row.astype(np.int64), asked, lag_us)["coclick_user"]
    found = np.sqrt(1 / alike**2 - 1)[in_published_order(ebnerd, ebnerd_requests)]
    counted = published.of_items(published_log, (), ebnerd_spec.shows_lag_s, ebnerd_spec.clicks_lag_s)
    wanted = np.ma.filled(counted["clicks_total"].astype(float), 0)
    assert len(wanted) == len(found)
    assert wanted.max() > 100
    np.testing.assert_allclose(found, wanted, atol=1e-3)


def test_each_period_is_of_the_clicks_before_its_start(
    published_log: duckdb.DuckDBPyConnection, ebnerd_spec: FeatureSpec, factors: Factors
) -> None:
    """Pairs that SQL finds before every fourth midnight make the stored factors of that midnight, byte for byte."""
    first, last = published_log.sql("SELECT min(t) // 86400000000, max(t) // 86400000000 FROM shown").fetchall()[0]
    assert sorted(factors) == [day * DAY_US for day in range(first, last + 2)]
    for start in sorted(factors)[CHECKED_PERIODS]:
        of_user = factors[start]
        users, items = published.pairs_before(published_log, start)
        names, user_ranks = np.unique(users, return_inverse=True)
        made = user_factors(user_ranks, np.unique(items, return_inverse=True)[1], ebnerd_spec.coclick_rank)
        assert list(of_user) == names.tolist()
        np.testing.assert_array_equal(np.stack(list(of_user.values())), made)


def test_factors_are_near_those_of_a_dense_svd(
    published_log: duckdb.DuckDBPyConnection, ebnerd_spec: FeatureSpec, factors: Factors
) -> None:
    """Users whom the exact factors hold to be alike are so: 128 of 1,900 values are kept, so each pair only roughly."""
    start = sorted(factors)[7]
    users, items = published.pairs_before(published_log, start)
    names, user_ranks = np.unique(users, return_inverse=True)
    item_ranks = np.unique(items, return_inverse=True)[1]
    clicked = np.zeros((user_ranks.max() + 1, item_ranks.max() + 1))
    clicked[user_ranks, item_ranks] = 1
    weighted = clicked / np.sqrt(clicked.sum(axis=1, keepdims=True) * clicked.sum(axis=0))
    values, vectors = np.linalg.eigh(weighted @ weighted.T)
    rank = ebnerd_spec.coclick_rank
    exact = vectors[:, -rank:] * np.sqrt(values[-rank:])
    pairs = np.triu_indices(len(names), 1)
    stored = np.stack([factors[start][name] for name in names.tolist()])
    wanted, found = ((unit @ unit.T)[pairs] for unit in (rows / np.linalg.norm(rows, axis=1, keepdims=True)
                     for rows in (exact, stored)))  # fmt: skip
    alike = wanted > 0.6
    assert alike.sum() > 100_000
    assert np.abs(found - wanted)[alike].mean() < 0.05
    assert np.corrcoef(found, wanted)[0, 1] > 0.95
