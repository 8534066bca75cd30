"""A snapshot, the counters and the previous load -> the files of a new state folder; only changes are written.

Rows of online views are written where they changed, Feast's definitions are applied where they changed, and counters
of items are rebuilt where their tables changed.
"""

import hashlib
import json
import logging
import os
import pickle
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
from google.protobuf.message import Message

from features.encoding.as_of import AsOfCounter
from features.encoding.counter_layers import extended
from features.encoding.counters import COCLICKS, ITEMS, Counters, from_parquet
from features.engine.engine import Engine, InProcess
from features.live.open_tail import engine as online_engine
from features.live.places import DEFINED, ENGINE
from features.online import item_state
from features.online.changes import ViewRows, rows_file
from features.online.view_load import WRITTEN, ViewLoad, load_groups

if TYPE_CHECKING:
    from feast import FeatureStore

log = logging.getLogger("leitmotif")

COUNTED = "counted"
"""The stamp's key, within DEFINED, for the files that the counters of items were built from: name -> hash."""
OF_ITEMS = (ITEMS, COCLICKS)
VIEWS = {"user_history": "user_id", "user_state": "user_id", "item_profile": "item_id"}
"""Each online view, loaded from the snapshot's file of that name, and its column of ids."""
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
"""Called with a view's name and the ids of rows that were written, once per unit (view_load.py)."""


def fill(
    folder: Path,
    previous: LoadedState | None,
    data: Path,
    snapshot: Path,
    stamp: dict[str, Any],
    engine: Engine,
    counted: Counted | None = None,
    written: Written | None = None,
) -> dict[str, Any]:
    """Write registry.db, online.db, the counters of items and their ids. Returns the stamp's DEFINED section.

    engine: what writes rows of a Redis; into a file this process does.

    previous: the loaded state whose files may be reused; None: everything is built from scratch. Its files are never
        written to: unchanged ones are hard-linked into the new folder, others copied first.
    """
    files = _count(folder, previous, data, snapshot, stamp, counted)
    with _feast(folder, previous, data, snapshot, stamp) as (feast, defined, comparable):
        for name in VIEWS:
            comparing = previous if comparable else None
            _load_view(feast, folder, name, comparing, snapshot, written, engine)
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
    return {**hashes, ENGINE: online_engine()}


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
    feast: "FeatureStore",
    folder: Path,
    name: str,
    previous: LoadedState | None,
    snapshot: Path,
    tell: Written | None,
    engine: Engine,
) -> None:
    """Write the changes of one view's rows since the previous load, and record its rows in the folder."""
    from features.feast_store import online_rows

    path = snapshot / f"{name}.parquet"
    with tempfile.TemporaryDirectory(prefix=f"{name}-", dir=folder, ignore_cleanup_errors=True) as scratch:
        parts = Path(scratch)
        before = _before(feast, name, previous, parts)
        load = ViewLoad(pickle.dumps(feast.config), name, VIEWS[name], path, before, parts, online_rows.writer(feast))
        units = load.units()
        # a file has one writer, and for one unit no engine need be started
        runner = InProcess() if online_rows.is_file(feast) or len(units) == 1 else engine
        num_rows = num_written = num_removed = 0
        with rows_file(folder / rows_of(name)) as append:
            for done in runner.map(partial(load_groups, load), units, f"loading {name}"):
                rows = pq.read_table(done.part)
                if tell is not None:
                    tell(name, rows["id"].filter(rows[WRITTEN]))
                append(ViewRows(rows.drop_columns([WRITTEN])))
                num_rows, num_written = num_rows + done.num_rows, num_written + done.num_written
                num_removed += done.num_removed
    counts = [f"{count:,}" for count in (num_written, num_rows, num_removed)]
    log.info("loading Feast: %s %s of %s rows written, %s removed", name, *counts)


def _before(feast: "FeatureStore", name: str, previous: LoadedState | None, scratch: Path) -> Path | None:
    """A file of the rows that the store has of a view; None if it has none.

    A server may hold rows of a load that is not known here, such as one that was killed: all of its ids are listed.
    """
    from features.feast_store import online_rows

    if previous is not None:
        return previous.folder / rows_of(name)
    if online_rows.is_file(feast):
        return None
    listed = scratch / "listed.parquet"
    with rows_file(listed) as append:
        append(ViewRows.unknown(online_rows.stored_ids(feast, feast.get_feature_view(name))))
    return listed


def rows_of(view: str) -> str:
    """The file of a state folder that records a view's rows."""
    return f"{view}.rows.parquet"
