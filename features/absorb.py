"""Live events that are acknowledged -> live/<source>/<day>.parquet, the form that ingest reads. `make absorb`.

Each is sealed once: what the files hold says what is sealed, so a run that was killed is simply run again. The events
stay in the tail, and in every ranking, until a load after the next holds them.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa

from contracts.errors import InputError
from contracts.params import load_params
from contracts.schema import LIVE
from features.live_event import LiveEvent
from features.live_files import live_of, newest_seq, read_sealed, sealed_files, write_sealed, writing
from features.live_tail import LiveTail
from features.partitions import Partition
from features.state import state_of
from features.tails import open_tail

Sealing = list[tuple[int, LiveEvent]]


def absorb(tail: LiveTail, folder: Path) -> dict[str, int]:
    """Seal what the tail holds and the files of folder (live/<source>) do not. Returns new events by file name.

    A file holds the events acknowledged on one day, UTC, in order of seq.
    """
    made: dict[str, int] = {}
    with writing(folder):
        sealed = newest_seq([read_sealed(path) for path in sealed_files(folder)])
        for day, events in _by_day(tail, sealed):
            path = folder / f"{day}.parquet"
            new = _table(events)
            held = [read_sealed(path)] if path.exists() else []
            write_sealed(path, pa.concat_tables([*(each.cast(LIVE) for each in held), new]), newest_seq([*held, new]))
            made[path.name] = made.get(path.name, 0) + len(new)
    return made


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
        if field.name == "occurred_at"
        else pa.array([row[field.name] for row in rows], field.type)
        for field in LIVE
    }
    return pa.table(columns, schema=LIVE)


def main() -> None:
    """Seal the live events of the source that params.yaml names; exit 2 where that cannot be."""
    if len(sys.argv) > 1:
        print(f"{__doc__}\nRun it by `make absorb`; it takes no arguments.")
        sys.exit(0 if sys.argv[1:] in (["--help"], ["-h"]) else 2)
    try:
        data = Path("data") / load_params()["source"].name
        tail = open_tail(state_of(data))
        made = absorb(tail, live_of(data))
        tail.close()
    except InputError as error:
        print(f"absorb failed: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    told = ", ".join(f"{number:,} in {live_of(data) / name}" for name, number in made.items())
    print(f"sealed {told}; `dvc repro` brings them into histories" if made else "no live event is left to seal")


if __name__ == "__main__":
    main()
