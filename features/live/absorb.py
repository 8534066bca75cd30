"""`make absorb`: seal acknowledged live events into files in live/<source>/, one for each day and engine, for ingest.

Each event is sealed once: the files of an engine record what is sealed, so a killed run can simply be repeated. Of
earlier days' files that have not changed only the footers are read. Sealed events stay in the tail, and in every
ranking, until two loads have them.
"""
# pyright: reportAttributeAccessIssue=false

import sys
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from contracts.arguments import none_taken
from contracts.errors import InputError
from contracts.known_hashes import remembering
from contracts.params import load_params
from contracts.schema import LIVE, TIME
from features.live.open_tail import claim, live_path, open_sqlite, open_tail, place_of
from features.live.places import state_of
from features.live.tail import LiveTail
from features.sealed.event import REDIS, SQLITE, LiveEvent
from features.sealed.files import (
    live_of,
    newest_seq,
    read_sealed,
    sealed_files,
    sealed_name,
    sealed_seq,
    write_sealed,
    writing,
)
from features.sealed.forgotten import Forgotten, are_forgotten, list_lines, read_forgotten
from features.sealed.known_logs import check_list, known_path, lacking, note, read_known
from features.sealed.log_id import identity_of, refuse_other
from features.tables.partitions import Partition

Sealing = list[tuple[int, LiveEvent]]


def absorb(tail: LiveTail, folder: Path, log: str | None = None) -> dict[str, int]:
    """Seal events of the tail that are not in its files in folder (live/<source>). Returns file name -> new events.

    A file has the events that one engine acknowledged on one day, UTC, in order of seq. Events of forgotten users are
    skipped permanently. log: the identity of the log that the events belong to.
    """
    made: dict[str, int] = {}
    with writing(folder):
        lines = list_lines(folder)
        check_list(folder, lines)
        lacking(folder, sealed_files(folder))
        forgotten = read_forgotten(folder)
        for day, events in _by_day(tail, sealed_seq(folder, tail.engine)):
            path = folder / sealed_name(day, tail.engine)
            new = _of_others(_table(events), forgotten)
            held = [read_sealed(path)] if path.exists() else []
            passed = max(newest_seq(held), events[-1][0])
            write_sealed(path, pa.concat_tables([*(each.cast(LIVE) for each in held), new]), passed, log)
            if len(new):
                made[path.name] = made.get(path.name, 0) + len(new)
        if there := sealed_files(folder):
            note(folder, there, log=log)  # also files of older versions and of killed calls
    return made


def left_in_sqlite(state: Path, folder: Path) -> bool:
    """Whether the SQLite file of a source, if there is one, holds live events that are not sealed in folder."""
    if not live_path(state).exists():
        return False
    tail = open_sqlite(state)
    left = tail.since(sealed_seq(folder, SQLITE), limit=1)
    tail.close()
    return bool(left)


def _of_others(events: pa.Table, forgotten: Forgotten) -> pa.Table:
    return events.filter(pc.invert(pa.array(are_forgotten(events["user_id"], forgotten))))


def _by_day(tail: LiveTail, sealed: int) -> Iterator[tuple[str, Sealing]]:
    """Events after a seq, those of one day together, in order; a seq is a time in microseconds."""
    day, events = "", []
    while rows := tail.since(sealed):
        for seq, event in rows:
            name = Partition.at(seq, "D").name
            if name != day and events:
                yield day, events
                events = []
            day = name
            events.append((seq, event))
        sealed = rows[-1][0]
    if events:
        yield day, events


def _table(events: Sealing) -> pa.Table:
    rows = [{"seq": seq} | event._asdict() for seq, event in events]
    columns = {
        field.name: pa.array([row[field.name] for row in rows]).cast(field.type)
        if field.type == TIME
        else pa.array([row[field.name] for row in rows], field.type)
        for field in LIVE
    }
    return pa.table(columns, schema=LIVE)


def main() -> None:
    """Seal the live events of the source that params.yaml names; exit 2 if that is impossible."""
    try:
        source = load_params()["source"]
        data, log = Path("data") / source.id, identity_of(source)
        state, folder = state_of(data), live_of(data)
        refuse_other(read_known(folder).log, source, f"What {known_path(folder)} knows of {folder}/")
        tail = open_tail(state)
        refuse_other(claim(tail, state, log), source, f"The live events in {place_of(state)}")
        with remembering():
            made = absorb(tail, folder, log)
            tail.close()
            elsewhere = tail.engine == REDIS and left_in_sqlite(state, folder)
    except InputError as error:
        print(f"absorb failed: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    told = ", ".join(f"{number:,} in {folder / name}" for name, number in made.items())
    if elsewhere:
        print(f"{live_path(state)} (SQLite) holds live events too, not sealed: `make absorb ONLINE=sqlite` seals them")
    print(
        f"sealed {told}; `dvc repro` brings them into histories"
        if made
        else f"no live events are left to seal in {place_of(state)}"
    )


if __name__ == "__main__":
    none_taken("make absorb")
    main()
