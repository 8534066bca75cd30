"""Test rows -> named parts of them: after a theme shift, by length of history, by cold items."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from contracts.schema import UNKNOWN_INDEX
from features.encoding.encode import micros
from training.requests.reader import Requests

Mask = npt.NDArray[np.bool_]

NO_THEME = -1
"""Of a request or an item that the simulator did not draw."""
HISTORY_EDGES = (0, 1, 20, 100, 500)  # events; the last part is open


def slice_masks(
    requests: Requests, since_shift: npt.NDArray[np.int64], row_of_item: npt.NDArray[np.int64]
) -> dict[str, Mask]:
    """Name -> [N] which rows belong. The first three parts are disjoint and cover all rows; so do the history parts.

    since_shift: [R] requests between the last theme shift and this one, 0 for the first after it.
    """
    row = requests.request_of_row
    cold = row_of_item[requests.item_index] == UNKNOWN_INDEX
    by_request = {
        "first_after_shift": since_shift == 0,
        "second_and_third_after_shift": (since_shift >= 1) & (since_shift <= 2),
        "later_after_shift": since_shift >= 3,
    }
    for low, high in zip(HISTORY_EDGES, [*HISTORY_EDGES[1:], None], strict=True):
        by_request[_name(low, high)] = (requests.num_events >= low) & (high is None or requests.num_events < high)
    return {name: mask[row] for name, mask in by_request.items()} | {"cold_items": cold, "warm_items": ~cold}


def requests_since_shift(data: Path, requests: Requests, session_gap_s: float) -> npt.NDArray[np.int64]:
    """[R] how many requests of this user lie between the last shift and this one.

    A shift is a change of the simulator's true theme where data/truth holds both requests, else (a real log, a
    request that came live) a gap over session_gap_s between two requests of a user.
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
    """[len(item_ids)] the simulator's theme of each item, NO_THEME of one that it did not draw.

    None where the source has no truth.
    """
    path = data / "truth" / "items.parquet"
    if not path.exists():
        return None
    truth = pq.read_table(path, columns=["item_id", "theme"])
    return _themes_of(pa.array(item_ids, pa.string()), truth["item_id"], truth["theme"])


def _name(low: int, high: int | None) -> str:
    if high is None:
        return f"history_{low}_up"
    return f"history_{low}" if high == low + 1 else f"history_{low}_{high - 1}"


def _true_themes(data: Path, requests: Requests) -> npt.NDArray[np.int64]:
    """[R] the simulator's theme of each request; NO_THEME where it did not draw it."""
    path = data / "truth" / "requests.parquet"
    if not path.exists():
        return np.full(len(requests.request_index), NO_THEME, np.int64)
    truth = pq.read_table(path, columns=["impression_id", "theme"])
    names = pq.read_table(data / "impressions" / "requests.parquet").sort_by("request_index")
    return _themes_of(names["impression_id"], truth["impression_id"], truth["theme"])[requests.request_index]


def _themes_of(
    names: pa.Array | pa.ChunkedArray, known: pa.ChunkedArray, themes: pa.ChunkedArray
) -> npt.NDArray[np.int64]:
    """The theme of each name; NO_THEME of a name that is not known."""
    options = pc.SetLookupOptions(value_set=known.combine_chunks())
    place = pc.fill_null(pc.call_function("index_in", [names], options), -1).to_numpy().astype(np.int64)
    return np.r_[themes.to_numpy().astype(np.int64), NO_THEME][place]
