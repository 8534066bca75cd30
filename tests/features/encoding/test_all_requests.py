"""On EB-NeRD, all 50,080 requests and 583,054 candidates: what a model is given is what SQL finds in the files."""

from bisect import bisect_left
from pathlib import Path

import duckdb
import numpy as np
import numpy.typing as npt
import pytest

from contracts.schema import FIRST_INDEX
from features.encoding.counters import Counters
from features.encoding.encode import FeatureSpec, encode_histories
from features.encoding.scalars import PRIOR_RATE, PRIOR_SHOWS
from features.terms.convention import coclick_columns
from tests.features import published
from tests.features.ebnerd_ids import ids, in_published_order
from training.requests.batches import read_scalars
from training.requests.reader import Requests, load_events

pytestmark = [pytest.mark.xdist_group("ebnerd"), pytest.mark.slow]

NUM_REQUESTS, NUM_CANDIDATES = 50_080, 583_054
AT_ONCE = 4096


def slow_scalars(spec: FeatureSpec, log: duckdb.DuckDBPyConnection) -> dict[str, npt.NDArray]:
    """Every column by its definition but those of co-clicks (test_all_coclicks.py), by (request, item)."""
    item = published.of_items(log, spec.windows_s, spec.shows_lag_s, spec.clicks_lag_s)
    pair = published.of_pairs(log, spec.user_lag_s)
    user = published.of_users(log, spec.windows_s, spec.user_lag_s, spec.session_gap_s)
    said = published.of_requests(log)
    for each in (pair, user, said):
        assert (each["request"] == item["request"]).all()
        assert (each["item_id"] == item["item_id"]).all()
    at, found = item["t"], {}
    shows, clicks = ({scope: np.ma.filled(item[f"{what}_{scope}"].astype(float), 0) for scope in spec.scopes}
                     for what in ("shows", "clicks"))  # fmt: skip
    total = (clicks["total"] + PRIOR_SHOWS * PRIOR_RATE) / (shows["total"] + PRIOR_SHOWS)
    rate = {scope: (clicks[scope] + PRIOR_SHOWS * total) / (shows[scope] + PRIOR_SHOWS) for scope in spec.scopes}
    rate["total"] = total
    for scope in spec.scopes:
        found[f"item_shows_{scope}"], found[f"item_clicks_{scope}"] = np.log1p(shows[scope]), np.log1p(clicks[scope])
        found[f"item_rate_{scope}"] = rate[scope]
        for what in ("shows", "clicks"):
            found[f"user_{what}_{scope}"] = np.log1p(np.ma.filled(user[f"{what}_{scope}"].astype(float), 0))
    found["item_age"] = published.log_hours(at, item["first_at"])
    found["item_seen_age"] = published.log_hours(at, item["seen_at"])
    found["item_click_age"] = published.log_hours(at, item["clicked_at"])
    found["item_click_trend"] = np.log1p(288 * clicks["300s"]) - np.log1p(clicks["86400s"])
    found["item_rate_trend"] = np.log(rate["300s"] / rate["86400s"])
    found["user_item_shows"], found["user_item_clicks"] = (np.log1p(np.ma.filled(pair[what].astype(float), 0))
                                                           for what in ("shows", "clicks"))  # fmt: skip
    found["user_item_seen_age"] = published.log_hours(at, pair["seen_at"])
    of_user = [np.ma.filled(user[f"{what}_total"].astype(float), 0) for what in ("shows", "clicks")]
    found["user_rate"] = (of_user[1] + PRIOR_SHOWS * PRIOR_RATE) / (of_user[0] + PRIOR_SHOWS)
    found["user_age"] = published.log_hours(at, user["seen_at"])
    found["user_session_shows"] = np.log1p(np.ma.filled(user["session_shows"].astype(float), 0))
    found["item_is_read"] = said["is_read"]
    found["on_item_page"], found["is_subscriber"] = said["on_item_page"], said["is_subscriber"]
    found["hour_sin"], found["hour_cos"] = np.sin(2 * np.pi * said["day"]), np.cos(2 * np.pi * said["day"])
    return found | {f"device_{name}": (said["device"] == name).astype(float) for name in ("1", "2", "3")}


def test_every_count_age_and_context_of_every_candidate_is_what_was_known_by_then(
    ebnerd: Path, ebnerd_spec: FeatureSpec, published_log: duckdb.DuckDBPyConnection, ebnerd_requests: Requests
) -> None:
    assert (len(ebnerd_requests), len(ebnerd_requests.item_index)) == (NUM_REQUESTS, NUM_CANDIDATES)
    _, item_ids, user_ids = ids(ebnerd)
    counters = Counters.from_folder(ebnerd, item_ids, user_ids)
    made = read_scalars(ebnerd_spec, load_events(ebnerd), ebnerd_requests, counters)
    order = in_published_order(ebnerd, ebnerd_requests)
    slow = slow_scalars(ebnerd_spec, published_log)
    alike = coclick_columns(ebnerd_spec.coclick_rank, ebnerd_spec.context)
    assert len(alike) == 5
    assert slow.keys() | set(alike) == set(ebnerd_spec.scalars), "every column has its slow definition"
    for name, wanted in slow.items():
        found = made[order, ebnerd_spec.scalars.index(name)]
        assert found.std() > 0, f"{name} never varies: nothing is shown"
        np.testing.assert_allclose(found, wanted.astype(np.float32), rtol=1e-6, atol=1e-6, err_msg=name)


def test_every_history_that_a_model_reads_ends_before_its_request_less_the_lag(
    ebnerd: Path, ebnerd_spec: FeatureSpec, published_log: duckdb.DuckDBPyConnection, ebnerd_requests: Requests
) -> None:
    """Item by item and age by age, and the same where the offsets claim all that the user ever did."""
    spec, requests, events = ebnerd_spec, ebnerd_requests, load_events(ebnerd)
    names, item_ids, user_ids = ids(ebnerd)
    names, user_ids = names.to_pylist(), user_ids.to_pylist()
    index = {item: FIRST_INDEX + place for place, item in enumerate(item_ids.to_pylist())}
    clicks = {user: (times, np.array([index[item] for item in items], np.int32))
              for user, (times, items) in published.clicks_of_users(published_log).items()}  # fmt: skip
    asked = {name: (user, at) for name, user, at in published.requests(published_log)}
    lag_us, num_tied = round(spec.history_lag_s * 1e6), 0
    for first in range(0, len(requests), AT_ONCE):
        some = requests.take(np.arange(first, min(first + AT_ONCE, len(requests))))
        flat = (events.item_index, events.occurred_at, events.label, events.session, some.starts)
        encoded = encode_histories(spec, *flat, some.ends, some.at)
        greedy = encode_histories(spec, *flat, np.asarray(events.offsets)[some.user_index + 1], some.at)
        for name, held in vars(encoded).items():
            np.testing.assert_array_equal(held, getattr(greedy, name), err_msg=name)
        for row, request in enumerate(some.request_index):
            user, at = asked[names[request]]
            assert (user_ids[some.user_index[row]], some.at[row]) == (user, at)
            times, items = clicks[user]
            num_tied += bisect_left(times, at) < len(times) and times[bisect_left(times, at)] == at
            end = bisect_left(times, at - lag_us)
            newest = slice(max(end - spec.history_length, 0), end)
            mask = encoded.mask[row]
            assert encoded.item_index[row][mask].tolist() == items[newest].tolist()
            units = 1 + (at - np.array(times[newest], np.int64)) // 30_000_000
            assert encoded.age_bucket[row][mask].tolist() == np.minimum(np.log2(units).astype(int), 25).tolist()
    assert num_tied == NUM_REQUESTS  # each request's own click stands at its time
