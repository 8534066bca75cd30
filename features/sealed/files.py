"""live/<source>/: files of sealed live events, written atomically. They are all that ingest reads of live events."""

import fcntl
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from contracts.errors import InputError
from contracts.files import locked, written
from contracts.known_hashes import hash_of
from contracts.running import LOCKS, reader_of, wait_for_reader
from contracts.schema import LIVE
from features.sealed.event import REDIS, SQLITE
from features.sealed.known_logs import known_path, note, read_known

PATIENCE_S = 3600.0
"""How long a writer of these files waits for a run of ingest."""
NEWEST_SEQ = b"newest_seq"
"""Metadata key: the newest seq ever sealed in the file, including rows that were removed since."""
OF_REDIS = f".{REDIS}.parquet"
UNREADABLE = (OSError, EOFError, UnicodeError, pa.ArrowException)


def live_of(data: Path) -> Path:
    """data/<source> -> live/<source>, under the same root."""
    return data.parent.parent / "live" / data.name


def sealed_files(folder: Path) -> list[Path]:
    """The sealed files in order of their days; [] if there is no folder."""
    return sorted(path for path in folder.glob("*.parquet") if not path.name.startswith("."))


def sealed_name(day: str, engine: str) -> str:
    """The file name of a day: <day>.parquet for events from SQLite, <day>.redis.parquet for those from Redis."""
    return day + (OF_REDIS if engine == REDIS else ".parquet")


def engine_of(path: Path) -> str:
    """The engine (one of ENGINES) whose events a sealed file holds."""
    return REDIS if path.name.endswith(OF_REDIS) else SQLITE


def sealed_seq(folder: Path, engine: str) -> int:
    """The newest seq of an engine that was ever sealed in live/<source>; 0 if none was.

    Of a file that is as live/known.json records it only the footer is read; any other is read whole, and checked.
    """
    known = read_known(folder).files
    return max([0, *(_sealed_seq(path, known) for path in sealed_files(folder) if engine_of(path) == engine)])


def _sealed_seq(path: Path, known: Mapping[str, str]) -> int:
    if path.name in known:
        try:
            with suppress(KeyError):  # sealed by a version that did not record it
                if hash_of(path) == known[path.name]:
                    return footer_seq(path)
        except UNREADABLE as error:
            raise _damaged(path, " ".join(str(error).split()) or type(error).__name__) from error
    return newest_seq([read_sealed(path)])


def footer_seq(path: Path) -> int:
    """The newest seq that a sealed file's footer records. Raises one of UNREADABLE, or KeyError if it records none."""
    return int((pq.read_metadata(path).metadata or {})[NEWEST_SEQ])


def read_sealed(path: Path) -> pa.Table:
    """Read a sealed file (contracts.schema.LIVE). Raises InputError if it is damaged or of another kind."""
    try:
        table = pq.read_table(path)
    except UNREADABLE as error:
        raise _damaged(path, " ".join(str(error).split()) or type(error).__name__) from error
    if "known_at" not in table.column_names:  # sealed by a version that did not record it
        table = table.append_column(LIVE.field("known_at"), pa.nulls(len(table), LIVE.field("known_at").type))
    if not table.schema.equals(LIVE, check_metadata=False):
        wrong = [field.name for field in LIVE if field not in list(table.schema)]
        extra = [name for name in table.column_names if name not in LIVE.names]
        raise _damaged(path, f"columns that are missing or of another type: {wrong}; not known: {extra}")
    if not (np.diff(table["seq"].to_numpy()) > 0).all():
        raise _damaged(path, "seq does not increase from row to row")
    return table


def write_sealed(path: Path, events: pa.Table, newest_seq: int | None = None, log: str | None = None) -> None:
    """Replace a sealed file, atomically and durably.

    events: contracts.schema.LIVE. newest_seq: the newest seq ever in the file, if newer than that of the last row.
    log: the identity of the log that the events belong to. The file's hash is recorded in live/known.json.
    """
    events = events.select(LIVE.names).combine_chunks().cast(LIVE).sort_by("seq")
    newest = max(newest_seq or 0, events["seq"][-1].as_py() if len(events) else 0)
    with written(path) as temporary:
        pq.write_table(events.replace_schema_metadata({NEWEST_SEQ: str(newest)}), temporary, compression="zstd")
    note(path.parent, [path], log=log)


def newest_seq(tables: Sequence[pa.Table]) -> int:
    """The newest seq ever sealed in these files of one engine. tables: from read_sealed. 0 if there is none."""
    of_rows = [table["seq"][-1].as_py() for table in tables if len(table)]
    return max([0, *of_rows, *(int((table.schema.metadata or {}).get(NEWEST_SEQ, b"0")) for table in tables)])


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Hold an exclusive lock on the files of live/<source> while no run of ingest is in progress.

    DVC hashes ingest's inputs when ingest has ended, so files that change during a run would be recorded as read. This
    therefore waits, with a log line, for other writers and for a run in progress; a run that starts later waits for
    us. Temporary files of killed writers are removed. Raises InputError if a run has not ended after PATIENCE_S.
    """
    root = folder.parent.parent
    while True:
        with _locked(folder, fcntl.LOCK_EX):
            if reader_of(known_path(folder), root) is None:
                for left in (*folder.glob(".*.parquet.*"), *folder.glob(".*.txt.*")):
                    left.unlink(missing_ok=True)
                yield
                return
        wait_for_reader(known_path(folder), root, PATIENCE_S)  # outside the lock, which the run needs for reading


@contextmanager
def reading(folder: Path) -> Iterator[None]:
    """Hold a shared lock on the files of live/<source>, so that nobody changes them; waits for a writer."""
    if not folder.is_dir():
        yield
        return
    with _locked(folder, fcntl.LOCK_SH):
        yield


def _locked(folder: Path, how: int) -> AbstractContextManager[None]:
    return locked(folder.parent.parent / LOCKS / f"live-{folder.name}.lock", how)


def _damaged(path: Path, said: str) -> InputError:
    return InputError(
        f"{path} is not a complete file of sealed live events: {said}. Restore the file from a copy; or move it away "
        f"and remove its line from {known_path(path.parent)}, which gives up the live events in it."
    )
