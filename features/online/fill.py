"""A snapshot, the counters and what was loaded before -> the files of a new state, made of what changed.

Of the views that are online, only rows that changed are written. The definitions are applied only where they changed,
and counters of items are counted only where their tables changed.
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
"""In the stamp's DEFINED, the files that items are counted from: name -> hash."""
OF_ITEMS = (ITEMS, COCLICKS)
VIEWS = {"user_history": "user_id", "user_state": "user_id", "item_profile": "item_id"}
"""The views that are online, each loaded from the snapshot's file of its name, and the column of its ids."""
EVENT_TIME = "event_timestamp"
LONG_AGO = datetime(1900, 1, 1, tzinfo=UTC)
ONLINE = "online.db"


class Held(NamedTuple):
    """A loaded state, complete and undamaged."""

    folder: Path
    stamp: dict[str, Any]


class Counted(NamedTuple):
    """What the counters' tables hold, built already, and the ids whose positions are their keys."""

    counters: Counters
    item_ids: list[str]
    user_ids: list[str]


Written = Callable[[str, pa.Array | pa.ChunkedArray], None]
"""Told a view's name and the ids of its rows that were written, some at a time."""


def fill(
    folder: Path,
    held: Held | None,
    data: Path,
    snapshot: Path,
    stamp: dict[str, Any],
    counted: Counted | None = None,
    written: Written | None = None,
) -> dict[str, Any]:
    """Write registry.db, online.db, the counters of items and their ids. Returns what the stamp is to say of it.

    held: what may be copied; None: everything is made anew. A file of held is never written to: where it stays as it
        is, the new state has the same file by another link.
    """
    files = _count(folder, held, data, snapshot, stamp, counted)
    with _feast(folder, held, data, snapshot, stamp) as (feast, defined, comparable):
        for name in VIEWS:
            _load_view(feast, folder, name, held if comparable else None, snapshot, written)
    return {**defined, COUNTED: files}


def _count(
    folder: Path, held: Held | None, data: Path, snapshot: Path, stamp: dict[str, Any], built: Counted | None
) -> dict[str, str]:
    """Write what belongs to items. Returns the files that it is counted from.

    Where held has counted all but some new partitions, these alone are counted.
    """
    files = {name: digest for name, digest in stamp["files"].items() if name.split("/")[0] in OF_ITEMS}
    items = pq.read_table(snapshot / "item_profile.parquet", columns=["item_id"])["item_id"].to_pylist()
    if held is not None and (counted := held.stamp[DEFINED][COUNTED]).items() <= files.items():
        later = sorted(files.keys() - counted.keys())
        if _count_later(folder, held, data, later, items):
            return files
    if built is None or built.item_ids != items:
        users = ds.dataset(data / "user_counters", format="parquet").to_table(columns=["user_id"])["user_id"].unique()
        built = Counted(Counters.of_items(data, pa.array(items, pa.string()), users), items, users.to_pylist())
    item_state.save(folder, built.counters, items, built.user_ids)
    return files


def _count_later(folder: Path, held: Held, data: Path, later: list[str], items: list[str]) -> bool:
    """Put later partitions behind what held counted. False, and nothing done, where that will not do."""
    known = item_state.read_ids(held.folder)
    new_items = _new(items, known)
    has_coclicks = any(held.folder.glob(f"{COCLICKS}.*")) or any(name.startswith(COCLICKS) for name in later)
    if len(items) - len(new_items) != len(known) or (later and has_coclicks):  # these are factorised anew, all at once
        return False
    ids = known + new_items  # at the end: a key is a position
    if later:
        table = Counters.load(held.folder).item_counters
        assert isinstance(table, AsOfCounter)
        more = from_parquet([data / name for name in later], {"item_id": pa.array(ids, pa.string())})
        item_state.save(folder, Counters.of_table(extended(table, more)), ids, [])
        return True
    for name in (*OF_ITEMS, item_state.USERS):
        for path in held.folder.glob(f"{name}.*.npy"):
            os.link(path, folder / path.name)
    item_state.write_ids(folder, ids)
    return True


def _new(ids: list[str], known: list[str]) -> list[str]:
    before = set(known)
    return [name for name in ids if name not in before]


@contextmanager
def _feast(
    folder: Path, held: Held | None, data: Path, snapshot: Path, stamp: dict[str, Any]
) -> Iterator[tuple["FeatureStore", dict[str, str], bool]]:
    """Feast over a folder, with the definitions applied; their hashes; whether held's rows were copied.

    Feast remembers the published snapshot: where this one will be once the stage that makes it is done.
    """
    from feast import FeatureStore

    from features.feast_store import online_rows
    from features.feast_store.config import config
    from features.feast_store.repository import definitions, read_settings

    wanted = definitions(data, data / "feature_snapshot", *read_settings(snapshot, stamp))
    defined = _hashes(wanted)
    before = {key: value for key, value in (held.stamp[DEFINED] if held else {}).items() if key != COUNTED}
    comparable = before.get("online") == defined["online"]
    if held is not None and comparable and (held.folder / ONLINE).exists():
        shutil.copyfile(held.folder / ONLINE, folder / ONLINE)
    if held is not None and before == defined:
        shutil.copyfile(held.folder / "registry.db", folder / "registry.db")
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
    """A hash of all definitions and one of the columns of the views that are online, for this version of Feast.

    Beside them, the online store's engine.
    """
    import feast

    specs = [_timeless(each.to_proto().spec).SerializeToString(deterministic=True) for each in wanted]
    views = [each for each in wanted if getattr(each, "name", None) in VIEWS]
    columns = [[view.name, *view.entities, *(f"{field.name} {field.dtype}" for field in view.schema)] for view in views]
    said = {"all": b"".join(hashlib.sha256(spec).digest() for spec in specs), "online": json.dumps(columns).encode()}
    hashes = {name: hashlib.sha256(feast.__version__.encode() + text).hexdigest() for name, text in said.items()}
    return {**hashes, ENGINE: engine()}


def _timeless(message: Any) -> Any:
    """A definition without when it was made, which Feast writes into its sources and views, however deep."""
    for field, value in message.ListFields():
        if field.name in ("created_timestamp", "last_updated_timestamp"):
            message.ClearField(field.name)
        elif field.message_type and not field.message_type.GetOptions().map_entry:
            for each in [value] if isinstance(value, Message) else value:
                _timeless(each)
    return message


def _load_view(
    feast: "FeatureStore", folder: Path, name: str, held: Held | None, snapshot: Path, tell: Written | None
) -> None:
    """Bring the rows of one view from what held has to what the snapshot has; folder remembers them."""
    from features.feast_store import online_rows

    rows_file = f"{name}.rows.parquet"
    view, key = feast.get_feature_view(name), VIEWS[name]
    difference = Difference(ViewRows.read(held.folder / rows_file) if held is not None else ViewRows.none())
    # A server may have rows of which nothing is known; they are read all the while, so they go last.
    unknown = pa.array([], pa.string())
    if held is None and not online_rows.is_file(feast):
        unknown = online_rows.stored_ids(feast, view)
    num_written = 0
    for piece in _row_groups(snapshot / f"{name}.parquet"):
        written, restamped = difference.changed(ViewRows.of(piece, key, EVENT_TIME))
        changed = piece.filter(pa.array(written))
        if held is not None:
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
    log.info("loading Feast: of %s %s of %s rows written, %s removed", name, *counts)


def _row_groups(path: Path) -> Iterator[pa.Table]:
    try:
        with pq.ParquetFile(path) as parquet:
            for number in range(parquet.num_row_groups):
                yield parquet.read_row_group(number)
    except (OSError, pa.ArrowInvalid) as error:
        raise InputError(
            f"{path} cannot be read: {error}. `make run` makes it again, `make pull` fetches it."
        ) from error
