"""Counters and the candidates of requests -> scalar features, each as of its request's time. numpy only.

Training calls it for many requests, serving for one; both run the same code. Every count is a difference of as-of
reads. `request_of` gives each candidate's request.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from contracts.errors import InputError
from features.encoding.as_of import END_OF_TIME, AsOfCounts
from features.encoding.asked import NO_KEY, Asked
from features.encoding.coclicks import Coclicks
from features.encoding.counters import Counters
from features.encoding.encode import FeatureSpec
from features.terms.convention import micros

Int64 = npt.NDArray[np.int64]
Float32 = npt.NDArray[np.float32]
Floats = npt.NDArray[np.floating]

PRIOR_SHOWS = 10.0
PRIOR_RATE = 0.1
TREND_S = 86_400
"""A trend compares the shortest window with the longest of at most this."""
OLDEST_HOURS = 24.0 * 365
"""The largest age, also used for events that never happened."""
US_PER_HOUR = 3.6e9
US_PER_DAY = 86_400_000_000
ROWS_AT_ONCE = 65_536


def scalar_features(
    spec: FeatureSpec,
    counters: Counters,
    item_keys: npt.ArrayLike,
    request_of: npt.ArrayLike,
    asked: Asked,
) -> Float32:
    """The scalar features [B, len(spec.scalars)] of B candidates in R requests.

    item_keys: [B] positions in the vocabulary (item_index - FIRST_INDEX); negative where unknown.
    request_of: [B] the request of each candidate, ascending, so that the candidates of a request are contiguous.
    Item columns: log1p of shows and clicks and a smoothed rate, in total and in each trailing window. A total's rate
    is smoothed towards PRIOR_RATE, a window's towards its total. Ages are log1p of hours. serving/bundle/card.py says
    what each column means; tests/features/encoding/test_scalars.py has the slow definition.
    """
    items, request_of = np.asarray(item_keys, np.int64), np.asarray(request_of, np.int64)
    users, at = asked.user_keys, asked.at
    made = np.empty((len(items), len(spec.scalars)), np.float32)
    of_request = _of_users(spec, counters.user_counters, users, at) | _of_contexts(spec, asked)
    of_request = _stack(spec.request_scalars, of_request, len(users))
    for rows in _whole_requests(request_of):
        request = request_of[rows]
        # one request's candidates share its time, which is then looked up once instead of for each of them
        of = request if len(users) > 1 else slice(None)
        columns = _of_items(spec, counters.item_counters, items[rows], at[of])
        columns |= _of_pairs(spec, counters, users[of], items[rows], at[of])
        columns["item_is_read"] = (items[rows] == asked.reading[request]) & (items[rows] >= 0)
        if spec.coclick_rank:
            columns |= _coclicks(counters).columns(items[rows], request, asked, micros(spec.clicks_lag_s))
        own = _stack(spec.candidate_scalars, columns, len(request))
        parts = [own, of_request[request]]
        if spec.in_list:
            parts += [*compare_in_list(own, request)]
        made[rows] = np.concatenate(parts, axis=1)
    return made


def scalars_of_one(spec: FeatureSpec, counters: Counters, item_keys: npt.ArrayLike, asked: Asked) -> Float32:
    """The candidates of one request: scalar_features with R = 1."""
    item_keys = np.asarray(item_keys, np.int64)
    return scalar_features(spec, counters, item_keys, np.zeros(len(item_keys), np.int64), asked)


def compare_in_list(values: Float32, request_of: Int64) -> tuple[Float32, Float32, Float32]:
    """Each candidate beside the others of its list: (rank [B, K], difference to the list's mean [B, K], length [B, 1]).

    values: [B, K], request_of: [B] ascending. A rank is the mean rank of equals scaled to 0 (least) .. 1 (greatest),
    one half where a list has one candidate. The length is log1p of it.
    """
    if not len(request_of):
        return values, values, np.zeros((0, 1), np.float32)
    starts = np.flatnonzero(np.r_[True, request_of[1:] != request_of[:-1]])
    sizes = np.diff(starts, append=len(request_of))
    list_of = np.repeat(np.arange(len(starts)), sizes)
    means = np.add.reduceat(values.astype(np.float64), starts, axis=0) / sizes[:, None]
    place = _mean_ranks(values, list_of) - starts[list_of, None]
    last = (sizes - 1)[list_of, None]
    ranks = np.where(last > 0, place / np.maximum(last, 1), 0.5)
    length = np.log1p(sizes)[list_of, None]
    return ranks.astype(np.float32), (values - means[list_of]).astype(np.float32), length.astype(np.float32)


def _mean_ranks(values: Float32, list_of: Int64) -> Floats:
    """[B, K] each value's row after sorting every list in place, ties at their mean; all columns at once."""
    num_rows, num_columns = values.shape
    flat = values.T.ravel()
    group = (np.arange(num_columns)[:, None] * num_rows + list_of).ravel()
    order = np.lexsort((flat, group))  # sorts within each list of each column
    value = flat[order]
    runs = np.flatnonzero(np.r_[True, (value[1:] != value[:-1]) | (group[1:] != group[:-1])])
    lengths = np.diff(runs, append=len(flat))
    ranks = np.empty(len(flat))
    ranks[order] = np.repeat(runs + (lengths - 1) / 2, lengths)
    return ranks.reshape(num_columns, num_rows).T - np.arange(num_columns) * num_rows


def _of_items(spec: FeatureSpec, table: AsOfCounts, items: Int64, at: Int64) -> dict[str, Floats]:
    shows_at, clicks_at = at - micros(spec.shows_lag_s), at - micros(spec.clicks_lag_s)
    back = _back(spec)
    found = table.find(items, np.concatenate([shows_at - back, clicks_at - back]))
    of_shows, of_clicks = found.of(slice(None, len(back))), found.of(slice(len(back), None))
    shows, clicks = _per_scope(of_shows.shows()), _per_scope(of_clicks.clicks())
    rates = _smoothed(shows, clicks)
    short, long = _trend_scopes(spec)
    span = _seconds(spec, long) / _seconds(spec, short)
    first = table.first_seen(items)
    first_seen = np.where(first < shows_at, first, END_OF_TIME)
    columns = {f"item_shows_{scope}": np.log1p(shows[row]) for row, scope in enumerate(spec.scopes)}
    columns |= {f"item_clicks_{scope}": np.log1p(clicks[row]) for row, scope in enumerate(spec.scopes)}
    columns |= {f"item_rate_{scope}": rates[row] for row, scope in enumerate(spec.scopes)}
    return columns | {
        "item_age": _log_hours(at, first_seen),
        "item_seen_age": _log_hours(at, of_shows.of(0).last_seen()),
        "item_click_age": _log_hours(at, of_clicks.of(0).last_clicked()),
        "item_click_trend": np.log1p(span * clicks[short]) - np.log1p(clicks[long]),
        "item_rate_trend": np.log(rates[short] / rates[long]),
    }


def _of_pairs(spec: FeatureSpec, counters: Counters, users: Int64, items: Int64, at: Int64) -> dict[str, Floats]:
    found = counters.user_item_counters.find(counters.pair_key(users, items), at - micros(spec.user_lag_s))
    return {
        "user_item_shows": np.log1p(found.shows()),
        "user_item_clicks": np.log1p(found.clicks()),
        "user_item_seen_age": _log_hours(at, found.last_seen()),
    }


def _of_users(spec: FeatureSpec, table: AsOfCounts, users: Int64, at: Int64) -> dict[str, Floats]:
    back = np.concatenate([_back(spec), [[micros(spec.session_gap_s)]]])
    found = table.find(users, at - micros(spec.user_lag_s) - back)
    of_scopes = found.of(slice(None, -1))
    shows, clicks = _per_scope(of_scopes.shows()), _per_scope(of_scopes.clicks())
    session_shows = found.of(0).shows() - found.of(-1).shows()
    columns = {f"user_shows_{scope}": np.log1p(shows[row]) for row, scope in enumerate(spec.scopes)}
    columns |= {f"user_clicks_{scope}": np.log1p(clicks[row]) for row, scope in enumerate(spec.scopes)}
    return columns | {
        "user_rate": _smoothed(shows[:1], clicks[:1])[0],
        "user_age": _log_hours(at, found.of(0).last_seen()),
        "user_session_shows": np.log1p(session_shows),
    }


def _of_contexts(spec: FeatureSpec, asked: Asked) -> dict[str, Floats]:
    day = 2 * np.pi * (asked.at % US_PER_DAY) / US_PER_DAY
    columns: dict[str, Floats] = {
        "hour_sin": np.sin(day),
        "hour_cos": np.cos(day),
        "on_item_page": (asked.reading != NO_KEY).astype(np.float32),
        "is_subscriber": asked.is_subscriber.astype(np.float32),
    }
    return columns | {f"device_{name}": (asked.device == name).astype(np.float32) for name in spec.devices}


def _coclicks(counters: Counters) -> Coclicks:
    if counters.coclicks is None:
        raise InputError("statistics.coclick_rank is set, but data/ holds no co-clicks. `dvc repro statistics`.")
    return counters.coclicks


def _back(spec: FeatureSpec) -> Int64:
    """[1 + W, 1] us: how far back the counts of each scope begin; 0 is in total."""
    return np.array([0, *(micros(window) for window in spec.windows_s)], np.int64)[:, None]


def _per_scope(counts: Int64) -> Floats:
    """[1 + W, B]: in total and in each window. counts: running, at the end of all windows and where each begins."""
    return np.concatenate([counts[:1], counts[:1] - counts[1:]]).astype(np.float64)


def _smoothed(shows: Floats, clicks: Floats) -> Floats:
    total = (clicks[0] + PRIOR_SHOWS * PRIOR_RATE) / (shows[0] + PRIOR_SHOWS)
    rates = (clicks + PRIOR_SHOWS * total) / (shows + PRIOR_SHOWS)
    rates[0] = total
    return rates


def _trend_scopes(spec: FeatureSpec) -> tuple[int, int]:
    """Rows of the two scopes that a trend compares; the same row twice (a trend of 0) if there are not two windows."""
    windows = sorted((window, row) for row, window in enumerate(spec.windows_s, start=1) if window <= TREND_S)
    return (windows[0][1], windows[-1][1]) if windows else (0, 0)


def _seconds(spec: FeatureSpec, row: int) -> float:
    return float(spec.windows_s[row - 1]) if row else 1.0


def _log_hours(at: Int64, then: Int64) -> Floats:
    """log1p of the hours since a time, at most OLDEST_HOURS; as old as that where it never was."""
    hours = (at - np.where(then == END_OF_TIME, at, then)) / US_PER_HOUR
    return np.log1p(np.where(then == END_OF_TIME, OLDEST_HOURS, np.minimum(hours, OLDEST_HOURS)))


def _stack(names: tuple[str, ...], columns: Mapping[str, npt.NDArray[Any]], num_rows: int) -> Float32:
    """The named columns, in the order of the names."""
    held = [columns[name] for name in names]
    return np.stack(held, axis=1).astype(np.float32) if num_rows else np.zeros((0, len(held)), np.float32)


def _whole_requests(request_of: Int64) -> Iterator[slice]:
    """Slices of about ROWS_AT_ONCE rows that never cut a request, so that memory does not grow with the log."""
    first = 0
    while first < len(request_of):
        last = min(first + ROWS_AT_ONCE, len(request_of))
        last = int(np.searchsorted(request_of, request_of[last - 1], side="right"))
        yield slice(first, last)
        first = last
