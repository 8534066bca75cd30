"""A snapshot, the counters and the previous load -> the files of a new state folder; only changes are written.

Rows of online views are written where they changed, Feast's definitions are applied where they changed, and counters
of items are rebuilt where their tables changed.
"""

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq
from google.protobuf.message import Message

from contracts.errors import InputError
from features.encoding.as_of import AsOfCounter
from features.encoding.counter_layers import extended
from features.encoding.counters import COCLICKS, ITEMS, Counters, from_parquet
from features.live.open_tail import engine
from features.live.places import DEFINED, ENGINE
from features.online import item_state
from features.online.changes import Difference, ViewRows

if TYPE_CHECKING:
    from feast import FeatureStore

log = logging.getLogger("leitmotif")

COUNTED = "counted"
"""The stamp's key, within DEFINED, for the files that the counters of items were built from: name -> hash."""
OF_ITEMS = (ITEMS, COCLICKS)
VIEWS = {"user_history": "user_id", "user_state": "user_id", "item_profile": "item_id"}
"""Each online view, loaded from the snapshot's file of that name, and its column of ids."""
EVENT_TIME = "event_timestamp"
LONG_AGO = datetime(1900, 1, 1, tzinfo=UTC)
ONLINE = "online.db"


class LoadedState(NamedTuple):
    """A loaded state, complete and undamaged."""

    folder: Path
    stamp: dict[str, Any]


class Counted(NamedTuple):
    """Counters that are already built, and the ids whose positions are their keys."""

    counters: Counters
    item_ids: list[str]
    user_ids: list[str]


Written = Callable[[str, pa.Array | pa.ChunkedArray], None]
"""Called with a view's name and the ids of rows that were written, once per row group."""


def fill(
    folder: Path,
    previous: LoadedState | None,
    data: Path,
    snapshot: Path,
    stamp: dict[str, Any],
    counted: Counted | None = None,
    written: Written | None = None,
) -> dict[str, Any]:
    """Write registry.db, online.db, the counters of items and their ids. Returns the stamp's DEFINED section.

    previous: the loaded state whose files may be reused; None: everything is built from scratch. Its files are never
        written to: unchanged ones are hard-linked into the new folder, others copied first.
    """
    files = _count(folder, previous, data, snapshot, stamp, counted)
    with _feast(folder, previous, data, snapshot, stamp) as (feast, defined, comparable):
        for name in VIEWS:
            _load_view(feast, folder, name, previous if comparable else None, snapshot, written)
    return {**defined, COUNTED: files}


def _count(
    folder: Path, previous: LoadedState | None, data: Path, snapshot: Path, stamp: dict[str, Any], built: Counted | None
) -> dict[str, str]:
    """Write the counters of items. Returns name -> hash of the files that they were built from.

    If the previous state has counted all but some new partitions, only those are counted.
    """
    files = {name: digest for name, digest in stamp["files"].items() if name.split("/")[0] in OF_ITEMS}
    items = pq.read_table(snapshot / "item_profile.parquet", columns=["item_id"])["item_id"].to_pylist()
    if previous is not None and (counted := previous.stamp[DEFINED][COUNTED]).items() <= files.items():
        later = sorted(files.keys() - counted.keys())
        if _count_later(folder, previous, data, later, items):
            return files
    if built is None or built.item_ids != items:
        users = ds.dataset(data / "user_counters", format="parquet").to_table(columns=["user_id"])["user_id"].unique()
        built = Counted(Counters.of_items(data, pa.array(items, pa.string()), users), items, users.to_pylist())
    item_state.save(folder, built.counters, items, built.user_ids)
    return files


def _count_later(folder: Path, previous: LoadedState, data: Path, later: list[str], items: list[str]) -> bool:
    """Add new partitions to the previous state's counters. Returns False, writing nothing, where that is impossible."""
    known = item_state.read_ids(previous.folder)
    new_items = _new(items, known)
    has_coclicks = any(previous.folder.glob(f"{COCLICKS}.*")) or any(name.startswith(COCLICKS) for name in later)
    if len(items) - len(new_items) != len(known) or (later and has_coclicks):  # co-clicks are factorised as a whole
        return False
    ids = known + new_items  # appended, since keys are positions
    if later:
        table = Counters.load(previous.folder).item_counters
        assert isinstance(table, AsOfCounter)
        more = from_parquet([data / name for name in later], {"item_id": pa.array(ids, pa.string())})
        item_state.save(folder, Counters.of_table(extended(table, more)), ids, [])
        return True
    for name in (*OF_ITEMS, item_state.USERS):
        for path in previous.folder.glob(f"{name}.*.npy"):
            os.link(path, folder / path.name)
    item_state.write_ids(folder, ids)
    return True


def _new(ids: list[str], known: list[str]) -> list[str]:
    before = set(known)
    return [name for name in ids if name not in before]


@contextmanager
def _feast(
    folder: Path, previous: LoadedState | None, data: Path, snapshot: Path, stamp: dict[str, Any]
) -> Iterator[tuple["FeatureStore", dict[str, str], bool]]:
    """Yields (Feast over the folder with the definitions applied, their hashes, whether rows can be compared).

    Rows can be compared with the previous load where the columns of the online views are the same. The definitions name
    the published snapshot's folder, where this snapshot will be once the stage that writes it has finished.
    """
    from feast import FeatureStore

    from features.feast_store import online_rows
    from features.feast_store.config import config
    from features.feast_store.repository import definitions, read_settings

    wanted = definitions(data, data / "feature_snapshot", *read_settings(snapshot, stamp))
    defined = _hashes(wanted)
    before = {key: value for key, value in (previous.stamp[DEFINED] if previous else {}).items() if key != COUNTED}
    comparable = before.get("online") == defined["online"]
    if previous is not None and comparable and (previous.folder / ONLINE).exists():
        shutil.copyfile(previous.folder / ONLINE, folder / ONLINE)
    if previous is not None and before == defined:
        shutil.copyfile(previous.folder / "registry.db", folder / "registry.db")
    feast = FeatureStore(config=config(folder, offline="file"))
    if before != defined:
        feast.apply(wanted)
    online_rows.mark(feast, "")
    yield feast, defined, comparable
    online_rows.mark(feast, stamp["snapshot_id"])
    until = datetime.fromtimestamp(stamp["log_end_us"] / 1e6, UTC) + timedelta(days=1)
    for name in VIEWS:
        feast.registry.apply_materialization(feast.get_feature_view(name), feast.project, LONG_AGO, until)


def _hashes(wanted: list[Any]) -> dict[str, str]:
    """A hash of all definitions, one of the columns of online views, and the online store's engine.

    The hashes depend on Feast's version too.
    """
    import feast

    specs = [_timeless(each.to_proto().spec).SerializeToString(deterministic=True) for each in wanted]
    views = [each for each in wanted if getattr(each, "name", None) in VIEWS]
    columns = [[view.name, *view.entities, *(f"{field.name} {field.dtype}" for field in view.schema)] for view in views]
    said = {"all": b"".join(hashlib.sha256(spec).digest() for spec in specs), "online": json.dumps(columns).encode()}
    hashes = {name: hashlib.sha256(feast.__version__.encode() + text).hexdigest() for name, text in said.items()}
    return {**hashes, ENGINE: engine()}


def _timeless(message: Any) -> Any:
    """A definition without the timestamps that Feast writes into sources and views, nested messages included."""
    for field, value in message.ListFields():
        if field.name in ("created_timestamp", "last_updated_timestamp"):
            message.ClearField(field.name)
        elif field.message_type and not field.message_type.GetOptions().map_entry:
            for each in [value] if isinstance(value, Message) else value:
                _timeless(each)
    return message


def _load_view(
    feast: "FeatureStore", folder: Path, name: str, previous: LoadedState | None, snapshot: Path, tell: Written | None
) -> None:
    """Write the changes of one view's rows since the previous load, and record its rows in the folder."""
    from features.feast_store import online_rows

    rows_file = f"{name}.rows.parquet"
    view, key = feast.get_feature_view(name), VIEWS[name]
    difference = Difference(ViewRows.read(previous.folder / rows_file) if previous is not None else ViewRows.none())
    # A server may hold rows of an unknown load. They are served meanwhile, so they are removed last.
    unknown = pa.array([], pa.string())
    if previous is None and not online_rows.is_file(feast):
        unknown = online_rows.stored_ids(feast, view)
    num_written = 0
    for piece in _row_groups(snapshot / f"{name}.parquet"):
        written, restamped = difference.changed(ViewRows.of(piece, key, EVENT_TIME))
        changed = piece.filter(pa.array(written))
        if previous is not None:
            online_rows.allow_older_overwrite(feast, view, changed[key].to_pylist())
        elif len(unknown):
            there = pc.call_function("is_in", [changed[key]], pc.SetLookupOptions(value_set=unknown))
            online_rows.allow_older_overwrite(feast, view, changed[key].filter(there).to_pylist())
        online_rows.write(feast, view, changed)
        late = piece.select([key, EVENT_TIME]).filter(pa.array(restamped))
        online_rows.restamp(feast, view, late[key].to_pylist(), late[EVENT_TIME].cast(pa.int64()).to_pylist())
        num_written += int(written.sum())
        if tell is not None:
            tell(name, changed[key])
    rows = difference.rows()
    gone = [*difference.gone(), *_new(unknown.to_pylist(), rows.table["id"].to_pylist())]
    online_rows.remove(feast, view, gone)
    rows.write(folder / rows_file)
    counts = [f"{count:,}" for count in (num_written, len(rows.table), len(gone))]
    log.info("loading Feast: %s %s of %s rows written, %s removed", name, *counts)


def _row_groups(path: Path) -> Iterator[pa.Table]:
    try:
        with pq.ParquetFile(path) as parquet:
            for number in range(parquet.num_row_groups):
                yield parquet.read_row_group(number)
    except (OSError, pa.ArrowInvalid) as error:
        raise InputError(
            f"{path} cannot be read: {error}. `make run` makes it again, `make pull` fetches it."
        ) from error
