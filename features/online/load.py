"""data/<source>/feature_snapshot and the counters -> .state/<source>/feast, ready to be served. All or nothing.

`python -m features.online.load` loads if the stamp differs from the snapshot, or a loaded file from its hash in the
stamp; otherwise it says that the store is up to date. Only users and items whose row changed since the previous load
are written; after damage, all are.
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

from contracts.arguments import none_taken
from contracts.errors import InputError
from contracts.files import hash_file
from contracts.known_hashes import hash_of, remembering
from contracts.params import load_params
from contracts.publish import write_json
from contracts.running import LOCKS, take
from features.engine.engine import HERE, running
from features.live.clock import wall_us
from features.live.open_tail import engine as online_engine
from features.live.open_tail import forgotten_of, open_tail, redis_address
from features.live.places import DEFINED, LOADED, STAMP, absorbed_upto, is_current, loaded_into, read_stamp, state_of
from features.online.fill import ONLINE, Counted, LoadedState, Written, fill
from features.online.snapshot import COUNTERS
from features.terms.params import EngineParams

if TYPE_CHECKING:
    from feast import FeatureStore

log = logging.getLogger("leitmotif")

AGAIN = "`make run` makes it again, `make pull` fetches it."
BUILDING = ".feast-"
STORED = "stored"
"""The stamp's key for the loaded files: name -> Stored. SQLite's -wal and -shm are left out: readers create them."""
SIDECARS = ("-wal", "-shm", "-journal")


class Stored(NamedTuple):
    """A loaded file: its hash, and what shows without reading it that nobody has written to it (as in git's index)."""

    sha256: str
    size: int  # bytes
    mtime_ns: int
    inode: int


def load(
    data: Path,
    state: Path,
    snapshot: Path | None = None,
    counted: Counted | None = None,
    written: Written | None = None,
    engine: EngineParams = HERE,
) -> bool:
    """Load Feast from the snapshot of data/<source>, unless it is loaded already. Returns whether it loaded.

    state: becomes a symbolic link to a new folder beside it, replaced atomically at the end.
    snapshot: the folder feature_snapshot; None for the published one.
    counted: the counters of data, if they are built already. written: called with the rows that were written.
    engine: what writes rows of a Redis; into a file this process does.
    One process loads at a time; others wait, and then find the snapshot loaded.
    """
    snapshot = snapshot or data / "feature_snapshot"
    stamp = _read_snapshot(snapshot)
    state.parent.mkdir(parents=True, exist_ok=True)
    with _alone(state.parent):
        _sweep(state)
        _honour_list(state)
        previous = _previous(state)
        if previous is not None and _without_ours(previous.stamp) == stamp:
            return False
        if counted is None:
            _check_files(data, snapshot, stamp)
        building = Path(tempfile.mkdtemp(prefix=f"{BUILDING}{os.getpid()}-", dir=state.parent))
        # mkdtemp lets only this user in; a container's user reads the state as it reads the folder around it
        building.chmod(state.parent.stat().st_mode)
        try:
            with running(engine, building) as runner:
                defined = fill(building, previous, data, snapshot, stamp, runner, counted, written)
            stored = _stored(building, previous.stamp[STORED] if previous is not None else {})
            before = 0 if previous is None else previous.stamp.get(LOADED, 0)
            told = {STORED: stored, DEFINED: defined, LOADED: max(wall_us(), before + 1)}
            write_json(building / STAMP, stamp | told)
            _point(state, building)
        except BaseException:
            shutil.rmtree(building, ignore_errors=True)
            raise
        _sweep(state)
        _prune(state, previous, stamp)
    return True


def _prune(state: Path, previous: LoadedState | None, stamp: dict[str, Any]) -> None:
    """Prune live events that both this load and the previous one have; processes may still serve the previous one."""
    tail = open_tail(state)
    upto = 0 if previous is None else min(absorbed_upto(each, tail.engine) for each in (previous.stamp, stamp))
    if upto:
        log.info("%s live events that the log now has were removed from the tail", f"{tail.prune(upto):,}")
    tail.close()


def _honour_list(state: Path) -> None:
    """Open the tail, which applies the list of forgotten users, so that a new tail does so even without a load."""
    if forgotten_of(state):
        tail = open_tail(state)
        tail.marks()
        tail.close()


@contextlib.contextmanager
def offline_store(state: Path, spill: Path, engine: EngineParams = HERE) -> Iterator["FeatureStore"]:
    """Feast over a state folder, to materialize and for point-in-time joins.

    Feast reads through Ibis' default backend, which is set to a DuckDB in UTC that spills into the folder `spill`.
    engine: what joins. Spark writes Parquet parts into `spill`, which its executors must see; they stay there.
    """
    from feast import FeatureStore

    from features.feast_store.config import config
    from features.tables.duck import as_default

    offline: dict[str, Any] = {"type": "features.feast_store.offline.LeitmotifOfflineStore"}
    if engine.name != HERE.name:
        offline |= {"engine": engine.model_dump(mode="json"), "parts": str(spill)}
    with as_default(spill):
        yield FeatureStore(config=config(state, offline=offline))


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
            f"{stamp.get('absorbed_seq')!r}, not one seq per engine. `make run` makes it again."
        )
    return stamp


def _check_files(data: Path, snapshot: Path, stamp: dict[str, Any]) -> None:
    """Raise InputError if a file differs from its hash in the snapshot: damaged, or of another run.

    One that has not changed since it was last read is not read again (contracts/known_hashes.py).
    """
    said: dict[str, str] = stamp["files"]
    counted = {f"{name}/{path.name}" for name in COUNTERS for path in (data / name).glob("*.parquet")}
    for name in sorted(said.keys() | counted):
        path = (data if "/" in name else snapshot) / name
        try:
            digest = hash_of(path)
        except OSError as error:
            raise InputError(f"{path} cannot be read: {error}. {AGAIN}") from error
        if digest != said.get(name):
            raise InputError(f"{path} differs from the file that the snapshot in {snapshot} was made from. {AGAIN}")


def lock_of(folder: Path) -> Path:
    """The lock of a folder .state/<source>, beside the other locks of .state."""
    return folder.parent / LOCKS.name / f"load-{folder.name}.lock"


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Hold the lock of .state/<source>: of a file, as NFS locks no folder. A killed process loses it."""
    path = lock_of(folder)
    path.parent.mkdir(exist_ok=True)
    with path.open("a+") as handle:
        if not take(handle.fileno()):
            log.info("another process loads into %s: waiting for it", folder)
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _previous(state: Path) -> LoadedState | None:
    """The previous load; None if there is none, or if its files are no longer exactly what was loaded."""
    try:
        stamp = read_stamp(state)
        if stamp is None:
            return None
        if DEFINED not in stamp or not is_current(stamp):  # loaded by another version
            return None
        if loaded_into(stamp) != online_engine():
            log.info("%s was loaded into another online store than %s: loading everything", state, online_engine())
            return None
        if _is_undamaged(state, stamp) and _has_rows(state, stamp):
            return LoadedState(state.resolve(), stamp)
        log.info("a file in %s differs from what was loaded: loading everything again", state)
    except (OSError, ValueError, TypeError, KeyError) as error:
        log.info("%s cannot be read (%s): loading everything again", state, error)
    return None


def _has_rows(state: Path, stamp: dict[str, Any]) -> bool:
    """Whether the configured online store has the load: the SQLite file here, or a Redis marked with its snapshot."""
    if redis_address() is None:
        return (state / ONLINE).exists()
    from feast import FeatureStore

    from features.feast_store import online_rows
    from features.feast_store.config import config

    return online_rows.is_of(FeatureStore(config=config(state, offline="file")), stamp["snapshot_id"])


def _without_ours(stamp: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in stamp.items() if key not in (STORED, DEFINED, LOADED)}


def _is_undamaged(state: Path, stamp: dict[str, Any]) -> bool:
    """Whether every file has its loaded bytes. Files with unchanged size, mtime and inode are not hashed again."""
    said = stamp[STORED]
    return {name: file[0] for name, file in _stored(state, said).items()} == {name: said[name][0] for name in said}


def _stored(folder: Path, known: dict[str, Any]) -> dict[str, Stored]:
    """Every file of the folder. known: files whose hashes are known."""
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
    """Atomically make state a link to folder."""
    link = folder.with_name(f"{folder.name}.link")
    link.symlink_to(folder.name)
    if state.is_dir() and not state.is_symlink():
        shutil.rmtree(state)
    os.replace(link, state)


def _sweep(state: Path) -> None:
    """Remove folders of killed loads and of replaced ones."""
    current = os.readlink(state) if state.is_symlink() else None
    for left in state.parent.glob(f"{BUILDING}*"):
        pid = left.name.removeprefix(BUILDING).split("-")[0]
        running = Path("/proc", pid).exists() and pid != str(os.getpid())
        if left.name == current or running:
            continue
        left.unlink() if left.is_symlink() else shutil.rmtree(left, ignore_errors=True)


def main() -> None:
    """Load the source that params.yaml names; exit 2 if there is nothing to load."""
    logging.basicConfig(format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    log.setLevel(logging.INFO)
    try:
        params = load_params()
        data = Path("data") / params["source"].id
        with remembering():
            done = load(data, state_of(data), engine=params["engine"])
    except InputError as error:
        log.error("load failed: %s", error)
        sys.exit(error.exit_code)
    stamp = read_stamp(state_of(data)) or {}
    print(f"{state_of(data)}: {'loaded' if done else 'up to date with'} snapshot {stamp['snapshot_id'][:12]}")


if __name__ == "__main__":
    none_taken("make load")
    main()
