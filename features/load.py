"""data/<source>/feature_snapshot and the counters -> .state/<source>/feast, ready to be served. All of it or none.

`python -m features.load` loads where the stamp differs from the snapshot, or a loaded file from what the stamp says of
it; otherwise it says so.
"""

import contextlib
import hashlib
import io
import json
import logging
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow.dataset as ds
import pyarrow.parquet as pq

from contracts.errors import InputError
from contracts.params import load_params
from contracts.publish import write_json
from features.counters import Counters
from features.state import STAMP, read_stamp, state_of

if TYPE_CHECKING:
    from feast import FeatureStore

log = logging.getLogger("leitmotif")

BUILDING = ".feast-"
STORED = "stored"
"""The stamp's key for the loaded files: name -> sha256. SQLite's -wal and -shm are left out: readers may make them."""
SIDECARS = ("-wal", "-shm", "-journal")


def load(data: Path, state: Path, snapshot: Path | None = None) -> bool:
    """Load Feast from the snapshot of data/<source>, unless it is loaded already. Returns whether it did.

    state: becomes a link to a folder beside it, moved in one step; until then what was there stays.
    snapshot: the folder feature_snapshot; None for the published one.
    """
    snapshot = snapshot or data / "feature_snapshot"
    stamp = _read_snapshot(snapshot)
    _sweep(state)
    if _holds(state, stamp):
        return False
    state.parent.mkdir(parents=True, exist_ok=True)
    building = Path(tempfile.mkdtemp(prefix=f"{BUILDING}{os.getpid()}-", dir=state.parent))
    try:
        _fill(building, data, snapshot, stamp)
        _point(state, building)
    except BaseException:
        shutil.rmtree(building, ignore_errors=True)
        raise
    _sweep(state)
    return True


@contextlib.contextmanager
def offline_store(state: Path, spill: Path) -> Iterator["FeatureStore"]:
    """Feast over a state folder, to materialize and to read as of a time.

    Feast reads through Ibis' default backend: within this context a DuckDB of ours, in UTC, that spills into a folder.
    """
    import ibis
    from feast import FeatureStore

    from features.engine import duckdb
    from features.online import config

    with duckdb(spill) as connection:
        ibis.set_backend(connection)
        try:
            yield FeatureStore(config=config(state, offline="features.feast_offline.LeitmotifOfflineStore"))
        finally:
            ibis.options.default_backend = None


def _read_snapshot(snapshot: Path) -> dict[str, Any]:
    try:
        return json.loads((snapshot / "snapshot.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(
            f"There is no feature snapshot in {snapshot}. `make run` makes one, `make pull` fetches one."
        ) from None


def _holds(state: Path, stamp: dict[str, Any]) -> bool:
    """Whether state was loaded from that snapshot and its files are still, byte for byte, what was loaded."""
    try:
        held = read_stamp(state)
        if held is None or {key: value for key, value in held.items() if key != STORED} != stamp:
            return False
        if held.get(STORED) == _digests(state):
            return True
        log.info("a file in %s is not what was loaded: loading again", state)
    except (OSError, ValueError) as error:
        log.info("%s cannot be read (%s): loading again", state, error)
    return False


def _digests(folder: Path) -> dict[str, str]:
    digests = {}
    for path in sorted(folder.iterdir()):
        if path.is_file() and path.name != STAMP and not path.name.endswith(SIDECARS):
            with path.open("rb") as handle:
                digests[path.name] = hashlib.file_digest(handle, "sha256").hexdigest()
    return digests


def _fill(folder: Path, data: Path, snapshot: Path, stamp: dict[str, Any]) -> None:
    """Write registry.db, online.db, the counters and, last, the stamp."""
    users = ds.dataset(data / "user_counters", format="parquet").to_table(columns=["user_id"])["user_id"].unique()
    items = pq.read_table(snapshot / "item_profile.parquet", columns=["item_id"])["item_id"]
    Counters.from_folder(data, items, users).save(folder)
    ids = {"items": items.to_pylist(), "users": users.to_pylist()}
    (folder / "ids.json").write_text(json.dumps(ids, ensure_ascii=False), encoding="utf-8")
    log.info("loading Feast: %s users, %s items", f"{stamp['num_users']:,}", f"{stamp['num_items']:,}")
    _materialize(folder, data, snapshot, stamp)
    write_json(folder / STAMP, stamp | {STORED: _digests(folder)})


def _materialize(folder: Path, data: Path, snapshot: Path, stamp: dict[str, Any]) -> None:
    """Apply the definitions and let Feast copy the snapshot from Parquet to SQLite. Counters stay where they are.

    Feast remembers the published snapshot: where this one will be once the stage that makes it is done.
    """
    from features.feast_repository import definitions, read_settings

    settings = read_settings(snapshot, stamp)
    newest = datetime.fromtimestamp(stamp["log_end_us"] / 1e6, UTC)
    with offline_store(folder, folder / "spill") as store:
        store.apply(definitions(data, snapshot, *settings))
        with contextlib.redirect_stdout(io.StringIO()):  # coloured progress for a terminal
            store.materialize(datetime(1900, 1, 1, tzinfo=UTC), newest + timedelta(days=1))
        store.apply(definitions(data, data / "feature_snapshot", *settings))


def _point(state: Path, folder: Path) -> None:
    """Make state a link to folder, in one step."""
    link = folder.with_name(f"{folder.name}.link")
    link.symlink_to(folder.name)
    if state.is_dir() and not state.is_symlink():
        shutil.rmtree(state)
    os.replace(link, state)


def _sweep(state: Path) -> None:
    """Remove folders of killed loads and of loads that have been replaced."""
    current = os.readlink(state) if state.is_symlink() else None
    for left in state.parent.glob(f"{BUILDING}*"):
        pid = left.name.removeprefix(BUILDING).split("-")[0]
        running = Path("/proc", pid).exists() and pid != str(os.getpid())
        if left.name == current or running:
            continue
        left.unlink() if left.is_symlink() else shutil.rmtree(left, ignore_errors=True)


def main() -> None:
    """Load for the source that params.yaml names; exit 2 where there is nothing to load."""
    logging.basicConfig(format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    log.setLevel(logging.INFO)
    try:
        data = Path("data") / load_params()["source"].name
        done = load(data, state_of(data))
    except InputError as error:
        log.error("load failed: %s", error)
        sys.exit(error.exit_code)
    stamp = read_stamp(state_of(data)) or {}
    print(f"{state_of(data)}: {'loaded' if done else 'up to date with'} snapshot {stamp['snapshot_id'][:12]}")


if __name__ == "__main__":
    main()
