"""The loaded online store and the log's tables -> how fresh and how complete each view is.

`python -m features.online.freshness` prints it and exits 3 if a view exceeds its limit, 2 if nothing is loaded. It is
meant for a schedule that watches what is served; the stage materialize reports the same figures of its own load.
"""

import logging
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from contracts.arguments import none_taken
from contracts.errors import CheckFailed, InputError
from contracts.params import load_params
from contracts.views import incomplete, stale
from features.encoding.as_of import AsOfCounter
from features.encoding.user_counts import UserCounts
from features.feast_store import online_rows
from features.live.open_tail import place_of
from features.live.places import state_of
from features.online.store import OnlineStore
from features.tables.histories import UserHistories
from features.terms.params import MaterializeParams

Bool = npt.NDArray[np.bool_]

ALL = 1.0
"""Minimum share of items in a view: the snapshot has the whole catalogue, the counters every item that was shown."""


@dataclass(frozen=True)
class LoggedNow:
    """What the views should hold according to the log: its users and items, and the time of its newest row (us)."""

    end: int
    users_with_events: pa.Array
    items: pa.Array
    counted_users: pa.Array
    counted_items: pa.Array

    @classmethod
    def of(cls, data: Path) -> "LoggedNow":
        """Read the outputs of earlier stages in data/<source>, not the snapshot."""
        histories = UserHistories.open(data / "user_histories")
        counted = _columns(data / "user_counters", "user_id", "occurred_at")
        newest = pc.call_function("max", [counted["occurred_at"].cast(pa.int64())]).as_py()
        return cls(
            end=max(newest or 0, int(histories.occurred_at.max(initial=0))),
            users_with_events=histories.user_ids.filter(pa.array(np.diff(histories.offsets) > 0)).combine_chunks(),
            items=_columns(data / "items", "item_id")["item_id"].unique(),
            counted_users=counted["user_id"].unique(),
            counted_items=_columns(data / "item_counters", "item_id")["item_id"].unique(),
        )


def measure(store: OnlineStore, data: Path, limits: MaterializeParams) -> dict[str, dict[str, Any]]:
    """Freshness and completeness of each view in the store, compared with the log, in the form of contracts.views."""
    log = LoggedNow.of(data)
    user, item = (limits.max_lag_s, limits.min_user_share), (limits.max_lag_s, ALL)
    counter, known = store.live.logged.item_counters, list(store.live.items.known)
    assert isinstance(counter, AsOfCounter)
    present = _counted(counter.keys, log.counted_items, known)
    return {
        "user_history": view(log.end, *_of_rows(store, "user_history", log.users_with_events), *user),
        "user_state": view(log.end, *_of_rows(store, "user_state", log.counted_users), *user),
        "item_profile": view(log.end, *_of_rows(store, "item_profile", log.items), *item),
        "item_counters": view(log.end, *_of_counter(counter), present, *item),
    }


def view(
    log_end: int, newest: int | None, num_keys: int, present: Bool, max_lag_s: float, min_share: float
) -> dict[str, Any]:
    """One view in the form of contracts.views. log_end, newest: us. present: [keys that the view should hold]."""
    return {
        "newest": None if newest is None else datetime.fromtimestamp(newest / 1e6, UTC).isoformat(),
        "lag_s": None if newest is None else max(0.0, (log_end - newest) / 1e6),
        "max_lag_s": max_lag_s,
        "num_keys": num_keys,
        "share": float(present.mean()) if len(present) else 1.0,
        "min_share": min_share,
    }


def _of_rows(store: OnlineStore, name: str, ids: pa.Array) -> tuple[int | None, int, Bool]:
    """(time of the newest event, number of keys, which ids are present) of a view whose rows are in Feast's store."""
    feature_view = store.feast.get_feature_view(name)
    stored = online_rows.stored_ids(store.feast, feature_view)
    newest, whose = online_rows.newest_ids(store.feast, feature_view)
    at = None if newest is None else round(newest.timestamp() * 1e6)
    if name == "user_history" and whose:  # Feast stores whole seconds, histories microseconds
        at = max(int(each.occurred_at.max()) for each in store.histories(whose) if each is not None)
    if name == "user_state" and whose:
        at = max(int(UserCounts.decode(each).times[-1]) for each in store.counted(whose) if each)
    return at, len(stored), _is_in(ids, stored)


def _of_counter(counter: AsOfCounter) -> tuple[int | None, int]:
    return (int(counter.times[-1]) if len(counter.times) else None), len(counter.keys)


def _counted(keys: npt.NDArray[np.int64], ids: pa.Array, known: list[str]) -> Bool:
    """Which ids have a key. known: id at each key."""
    place = pc.call_function("index_in", [ids], pc.SetLookupOptions(value_set=pa.array(known, pa.string())))
    return np.isin(place.fill_null(-1).to_numpy(), keys)


def _is_in(ids: pa.Array, stored: pa.Array) -> Bool:
    return pc.call_function("is_in", [ids], pc.SetLookupOptions(value_set=stored)).to_numpy(zero_copy_only=False)


def _columns(folder: Path, *names: str) -> pa.Table:
    return ds.dataset(folder, format="parquet").to_table(columns=list(names))


def table(views: dict[str, dict[str, Any]]) -> str:
    """A text table with one line per view."""
    heads = list(next(iter(views.values())))
    cells = [["view", *heads], *([name, *(_cell(each[head]) for head in heads)] for name, each in views.items())]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join("  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)) for line in cells)


def _cell(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:,.4f}".rstrip("0").rstrip(".")
    return f"{value:,}" if isinstance(value, int) else str(value)


def watch(data: Path, limits: MaterializeParams, max_live_rows: int | None = None) -> str:
    """Text about the loaded views and the live events since. Raises CheckFailed if a view exceeds its limit.

    max_live_rows: serve's limit, printed beside the number of live events.
    """
    store = OnlineStore.open(state_of(data))
    views = measure(store, data, limits)
    told = [table(views), _live(store, place_of(state_of(data)), max_live_rows)]
    store.tail.close()
    reasons = [*stale(views), *incomplete(views)]
    if reasons:
        raise CheckFailed("\n".join([*told, *reasons, "`make run` brings the log up to date, `make load` Feast."]))
    return "\n".join(told)


def _live(store: OnlineStore, place: str, max_live_rows: int | None) -> str:
    """Number of live events that the service reads, and the memory of a worker and storage that they take."""
    if not store.live.num_events:
        return "no live events since"
    newest = datetime.fromtimestamp(store.progress.newest_at / 1e6, UTC).isoformat()
    bound = "" if max_live_rows is None else f" of {max_live_rows:,} (serve.max_live_rows)"
    return (
        f"{store.live.num_events:,} live events since, the newest of {newest}; `make absorb` seals them for a run\n"
        f"{store.live.num_events:,}{bound} rows and about {store.live.num_bytes / 1e6:,.1f} MB in a worker's memory; "
        f"{store.tail.size() / 1e6:,.1f} MB in {place}"
    )


def main() -> None:
    """Watch the source that params.yaml names."""
    logging.basicConfig(format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    try:
        sections = load_params()
        print(watch(Path("data") / sections["source"].id, sections["materialize"], sections["serve"].max_live_rows))
    except (InputError, CheckFailed) as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    none_taken("make freshness")
    main()
