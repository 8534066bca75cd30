"""Test rows -> named parts of them: after a theme shift, by length of history, cold items and users, by time."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from contracts.schema import UNKNOWN_INDEX
from features.encoding.encode import micros
from training.requests.reader import BareRequests, Events, Requests

Mask = npt.NDArray[np.bool_]

NO_THEME = -1
"""The theme of a request or an item that is not in the simulator's truth."""
HISTORY_EDGES = (0, 1, 20, 100, 500)  # events; the last slice has no upper edge
HOUR_US = 3_600_000_000
NUM_PERIODS = 3
MOST_SINCE_SHIFT = 5  # last point of the curve after a shift; it includes all later requests


def slice_masks(
    requests: Requests,
    since_shift: npt.NDArray[np.int64],
    row_of_item: npt.NDArray[np.int64],
    cold_user: Mask | None = None,
    min_history: int | None = None,
) -> dict[str, Mask]:
    """Name -> [N] mask of rows. The slices by shift, history, item, user, hour and period each cover every row once.

    since_shift: [R] requests between the last theme shift and this one, 0 for the first after it. cold_user: [R] the
    user was not in training. min_history: train.min_history, so that requests like those trained on, and those left
    out of training, are judged apart.
    """
    by_request = {
        "first_after_shift": since_shift == 0,
        "second_and_third_after_shift": (since_shift >= 1) & (since_shift <= 2),
        "later_after_shift": since_shift >= 3,
    }
    length = requests.num_events
    for low, high in zip(HISTORY_EDGES, [*HISTORY_EDGES[1:], None], strict=True):
        by_request[_name(low, high)] = (length >= low) & (high is None or length < high)
    if min_history:
        by_request |= {"trained_history": length >= min_history, "untrained_history": length < min_history}
    if cold_user is not None:
        by_request |= {"cold_users": cold_user, "warm_users": ~cold_user}
    by_request |= _by_time(requests.at)
    row = requests.request_of_row
    cold = row_of_item[requests.item_index] == UNKNOWN_INDEX
    return {name: mask[row] for name, mask in by_request.items()} | {"cold_items": cold, "warm_items": ~cold}


def cold_users(events: Events, requests: Requests, before_us: int) -> Mask:
    """[R] whether the user has no event before a time, the end of the train part."""
    offsets = np.asarray(events.offsets)
    first = np.full(len(offsets) - 1, np.iinfo(np.int64).max)
    has_events = np.flatnonzero(np.diff(offsets))
    first[has_events] = np.asarray(events.occurred_at[offsets[:-1][has_events]])
    return first[requests.user_index] >= before_us


def after_shift_at(since_shift: npt.NDArray[np.int64]) -> dict[int, Mask]:
    """Number of requests since the shift -> [R] mask; the last one includes all later requests."""
    last = MOST_SINCE_SHIFT
    return {since: since_shift == since for since in range(last)} | {last: since_shift >= last}


def requests_since_shift(data: Path, requests: Requests | BareRequests, session_gap_s: float) -> npt.NDArray[np.int64]:
    """[R] number of the user's requests between the last shift and this one.

    A shift is a change of the simulator's true theme if data/truth holds both requests; otherwise (real logs, live
    requests) a gap over session_gap_s between two requests of a user.
    """
    order = np.lexsort((requests.request_index, requests.at, requests.user_index))
    user, at, theme = requests.user_index[order], requests.at[order], _true_themes(data, requests)[order]
    known = theme != NO_THEME
    gone_by, changed = at[1:] - at[:-1] > micros(session_gap_s), theme[1:] != theme[:-1]
    shifted = np.ones(len(order), bool)
    shifted[1:] = (user[1:] != user[:-1]) | np.where(known[1:] & known[:-1], changed, gone_by)
    place = np.arange(len(order))
    since = np.empty(len(order), np.int64)
    since[order] = place - np.maximum.accumulate(np.where(shifted, place, 0))
    return since


def true_item_themes(data: Path, item_ids: list[str]) -> npt.NDArray[np.int64] | None:
    """[len(item_ids)] the simulator's theme of each item; NO_THEME if the truth lacks it.

    None if the source has no truth.
    """
    path = data / "truth" / "items.parquet"
    if not path.exists():
        return None
    truth = pq.read_table(path, columns=["item_id", "theme"])
    return _themes_of(pa.array(item_ids, pa.string()), truth["item_id"], truth["theme"])


def _by_time(at: npt.NDArray[np.int64]) -> dict[str, Mask]:
    """By hour of the day (UTC), and by thirds of the test period, which show whether a model ages."""
    hour = at // HOUR_US % 24
    parts = {f"hour_{low:02d}_{low + 5:02d}": (hour >= low) & (hour < low + 6) for low in range(0, 24, 6)}
    first, last = (int(at.min()), int(at.max()) + 1) if len(at) else (0, 1)
    third = (at - first) * NUM_PERIODS // max(last - first, 1)
    return parts | {f"period_{part + 1}": third == part for part in range(NUM_PERIODS)}


def _name(low: int, high: int | None) -> str:
    if high is None:
        return f"history_{low}_up"
    return f"history_{low}" if high == low + 1 else f"history_{low}_{high - 1}"


def _true_themes(data: Path, requests: Requests | BareRequests) -> npt.NDArray[np.int64]:
    """[R] the simulator's theme of each request; NO_THEME if the truth lacks it."""
    path = data / "truth" / "requests.parquet"
    if not path.exists():
        return np.full(len(requests.request_index), NO_THEME, np.int64)
    truth = pq.read_table(path, columns=["impression_id", "theme"])
    names = pq.read_table(data / "impressions" / "requests.parquet").sort_by("request_index")
    return _themes_of(names["impression_id"], truth["impression_id"], truth["theme"])[requests.request_index]


def _themes_of(
    names: pa.Array | pa.ChunkedArray, known: pa.ChunkedArray, themes: pa.ChunkedArray
) -> npt.NDArray[np.int64]:
    """The theme of each name; NO_THEME if the name is unknown."""
    options = pc.SetLookupOptions(value_set=known.combine_chunks())
    place = pc.fill_null(pc.call_function("index_in", [names], options), -1).to_numpy().astype(np.int64)
    return np.r_[themes.to_numpy().astype(np.int64), NO_THEME][place]
