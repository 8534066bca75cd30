"""data/<source>/feature_snapshot and the counters -> .state/<source>/feast, ready to be served. All of it or none.

`python -m features.online.load` loads where the stamp differs from the snapshot, or a loaded file from what the stamp
says of it; otherwise it says so. Only users and items whose row changed since the last load are written; after damage,
all are.
"""

import contextlib
import fcntl
import json
import logging
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from contracts.errors import InputError
from contracts.files import hash_file
from contracts.params import load_params
from contracts.publish import write_json
from features.live.open_tail import engine, forgotten_of, open_tail, redis_address
from features.live.places import DEFINED, STAMP, absorbed_upto, is_current, loaded_into, read_stamp, state_of
from features.online.fill import ONLINE, Counted, Held, Written, fill
from features.online.snapshot import COUNTERS

if TYPE_CHECKING:
    from feast import FeatureStore

log = logging.getLogger("leitmotif")

AGAIN = "`make run` makes it again, `make pull` fetches it."
BUILDING = ".feast-"
STORED = "stored"
"""The stamp's key for the loaded files: name -> Stored. SQLite's -wal and -shm are left out: readers may make them."""
SIDECARS = ("-wal", "-shm", "-journal")


class Stored(NamedTuple):
    """A loaded file."""

    sha256: str
    size: int  # bytes; this and what follows tell, as in git's and DVC's caches, whether it was written to since
    mtime_ns: int
    inode: int


def load(
    data: Path,
    state: Path,
    snapshot: Path | None = None,
    counted: Counted | None = None,
    written: Written | None = None,
) -> bool:
    """Load Feast from the snapshot of data/<source>, unless it is loaded already. Returns whether it did.

    state: becomes a link to a folder beside it, moved in one step; until then what was there stays.
    snapshot: the folder feature_snapshot; None for the published one.
    counted: the counters of data, where they are built already. written: told which rows were written.
    Of several processes one loads at a time; the others wait, and find it done.
    """
    snapshot = snapshot or data / "feature_snapshot"
    stamp = _read_snapshot(snapshot)
    state.parent.mkdir(parents=True, exist_ok=True)
    with _alone(state.parent):
        _sweep(state)
        _honour_list(state)
        held = _held(state)
        if held is not None and _without_ours(held.stamp) == stamp:
            return False
        if counted is None:
            _check_files(data, snapshot, stamp)
        building = Path(tempfile.mkdtemp(prefix=f"{BUILDING}{os.getpid()}-", dir=state.parent))
        try:
            defined = fill(building, held, data, snapshot, stamp, counted, written)
            stored = _stored(building, held.stamp[STORED] if held is not None else {})
            write_json(building / STAMP, stamp | {STORED: stored, DEFINED: defined})
            _point(state, building)
        except BaseException:
            shutil.rmtree(building, ignore_errors=True)
            raise
        _sweep(state)
        _prune(state, held, stamp)
    return True


def _prune(state: Path, held: Held | None, stamp: dict[str, Any]) -> None:
    """Drop live events that this load and the one before hold: a process that still serves that one needs the rest."""
    tail = open_tail(state)
    upto = 0 if held is None else min(absorbed_upto(each, tail.engine) for each in (held.stamp, stamp))
    if upto:
        log.info("%s live events are in the log for good and have left the tail", f"{tail.prune(upto):,}")
    tail.close()


def _honour_list(state: Path) -> None:
    """A tail that is opened forgets who is on the list: so that a new one does, whether or not anything is loaded."""
    if forgotten_of(state):
        tail = open_tail(state)
        tail.marks()
        tail.close()


@contextlib.contextmanager
def offline_store(state: Path, spill: Path) -> Iterator["FeatureStore"]:
    """Feast over a state folder, to materialize and to read as of a time.

    Feast reads through Ibis' default backend: within this context a DuckDB of ours, in UTC, that spills into a folder.
    """
    import ibis
    from feast import FeatureStore

    from features.feast_store.config import config
    from features.tables.duck import duckdb

    with duckdb(spill) as connection:
        ibis.set_backend(connection)
        try:
            yield FeatureStore(config=config(state, offline="features.feast_store.offline.LeitmotifOfflineStore"))
        finally:
            ibis.options.default_backend = None


def _read_snapshot(snapshot: Path) -> dict[str, Any]:
    try:
        stamp = json.loads((snapshot / "snapshot.json").read_text(encoding="utf-8"))
        if not isinstance(stamp, dict):
            raise ValueError("it holds no JSON object")
    except FileNotFoundError:
        raise InputError(
            f"There is no feature snapshot in {snapshot}. `make run` makes one, `make pull` fetches one."
        ) from None
    except (OSError, ValueError) as error:
        raise InputError(f"{snapshot / 'snapshot.json'} cannot be read: {error}. {AGAIN}") from error
    if not is_current(stamp):
        raise InputError(
            f"The feature snapshot in {snapshot} was made by another version: its absorbed_seq is "
            f"{stamp.get('absorbed_seq')!r}, not one seq an engine. `make run` makes it anew."
        )
    return stamp


def _check_files(data: Path, snapshot: Path, stamp: dict[str, Any]) -> None:
    """Raise InputError where what would be loaded is not what the snapshot was made of: damaged, or of another run."""
    said: dict[str, str] = stamp["files"]
    counted = {f"{name}/{path.name}" for name in COUNTERS for path in (data / name).glob("*.parquet")}
    for name in sorted(said.keys() | counted):
        path = (data if "/" in name else snapshot) / name
        try:
            digest = hash_file(path)
        except OSError as error:
            raise InputError(f"{path} cannot be read: {error}. {AGAIN}") from error
        if digest != said.get(name):
            raise InputError(f"{path} is not what the snapshot in {snapshot} was made of. {AGAIN}")


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Hold a folder's lock, which a killed process lets go of."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            log.info("another process loads into %s: waiting for it", folder)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _held(state: Path) -> Held | None:
    """What state holds; None where nothing was loaded, or not all of it is still, byte for byte, what was loaded."""
    try:
        stamp = read_stamp(state)
        if stamp is None:
            return None
        if DEFINED not in stamp or not is_current(stamp):  # another version loaded it
            return None
        if loaded_into(stamp) != engine():
            log.info("%s is of another online store than %s, which is chosen: loading all of it", state, engine())
            return None
        if _is_undamaged(state, stamp) and _has_rows(state, stamp):
            return Held(state.resolve(), stamp)
        log.info("a file in %s is not what was loaded: loading all of it again", state)
    except (OSError, ValueError, TypeError, KeyError) as error:
        log.info("%s cannot be read (%s): loading all of it again", state, error)
    return None


def _has_rows(state: Path, stamp: dict[str, Any]) -> bool:
    """Whether the online store that is chosen now is what was loaded: the file here, or a Redis with its mark."""
    if redis_address() is None:
        return (state / ONLINE).exists()
    from feast import FeatureStore

    from features.feast_store import online_rows
    from features.feast_store.config import config

    return online_rows.is_of(FeatureStore(config=config(state, offline="file")), stamp["snapshot_id"])


def _without_ours(stamp: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in stamp.items() if key not in (STORED, DEFINED)}


def _is_undamaged(state: Path, stamp: dict[str, Any]) -> bool:
    """Whether every file has the bytes that were loaded. A file that nobody wrote to since is not read again."""
    said = stamp[STORED]
    return {name: file[0] for name, file in _stored(state, said).items()} == {name: said[name][0] for name in said}


def _stored(folder: Path, known: dict[str, Any]) -> dict[str, Stored]:
    """Every file. known: those whose hashes are known."""
    stored = {}
    for path in sorted(folder.iterdir()):
        if not path.is_file() or path.name == STAMP or path.name.endswith(SIDECARS):
            continue
        status = path.stat()
        version = (status.st_size, status.st_mtime_ns, status.st_ino)
        if path.name in known and version == (*known[path.name][1:],):
            stored[path.name] = Stored(*known[path.name])
            continue
        stored[path.name] = Stored(hash_file(path), *version)
    return stored


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
        data = Path("data") / load_params()["source"].id
        done = load(data, state_of(data))
    except InputError as error:
        log.error("load failed: %s", error)
        sys.exit(error.exit_code)
    stamp = read_stamp(state_of(data)) or {}
    print(f"{state_of(data)}: {'loaded' if done else 'up to date with'} snapshot {stamp['snapshot_id'][:12]}")


if __name__ == "__main__":
    main()
