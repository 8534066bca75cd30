"""A process that appends live events from several threads and says on its output which ones were acknowledged.

`python -m tests.features.live_writer '{"engine": "sqlite", "where": "log.db", ...}'`
"""

import json
import os
import random
import sys
import threading
import time
from pathlib import Path

from contracts.errors import InputError
from features.live.redis import RedisTail
from features.live.sqlite import SqliteTail
from features.live.tail import LiveTail
from features.sealed.event import LiveEvent
from tests.features.live_tails import event

SECOND = 1_000_000
SENT_TWICE = 0.2


def events_of(process: int, thread: int, num_events: int, num_users: int) -> list[LiveEvent]:
    """What a thread sends, in its order: times go to and fro, so that most events are late."""
    return [
        event(
            f"{process}-{thread}-{number}",
            user=f"u{(number + thread) % num_users}",
            item=f"i{number % 7}",
            at=number * 7919 % num_events * SECOND,
        )
        for number in range(num_events)
    ]


def write(tail: LiveTail, events: list[LiveEvent], seed: int, again_s: float) -> None:
    """One call an event; a fifth of them again, some while later. again_s: how long what is refused is sent again."""
    rng = random.Random(seed)
    again: list[LiveEvent] = []
    for each in events:
        send(tail, each, again_s)
        os.write(sys.stdout.fileno(), f"{each.event_id}\n".encode())  # one write: threads do not mix
        if rng.random() < SENT_TWICE:
            again.append(each)
        if len(again) > 5:
            send(tail, again.pop(0), again_s)
    for each in again:
        send(tail, each, again_s)


def send(tail: LiveTail, each: LiveEvent, again_s: float) -> None:
    """Until it is acknowledged."""
    until = time.monotonic() + again_s
    while True:
        try:
            tail.append([each])
            return
        except InputError:
            if time.monotonic() > until:
                raise
            time.sleep(0.05)


def main() -> None:
    """Start the threads; fail as the first of them fails."""
    given = json.loads(sys.argv[1])
    where = given["where"]
    tail = RedisTail(where, given["prefix"]) if given["engine"] == "redis" else SqliteTail(Path(where))
    failed: list[BaseException] = []

    def run(thread: int) -> None:
        try:
            events = events_of(given["process"], thread, given["num_events"], given["num_users"])
            write(tail, events, given["process"] * 100 + thread, given.get("again_s", 0))
        except BaseException as error:
            failed.append(error)
            raise

    threads = [threading.Thread(target=run, args=(number,)) for number in range(given["num_threads"])]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    tail.close()
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
