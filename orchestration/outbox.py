"""Messages that must arrive -> each channel gets each of them once; what does not arrive is sent again, more rarely.

Dagster keeps no cursor of a tick that raises or takes over a minute, and what such a tick has sent would be sent again.
So a tick that sends does not raise, and begins no message after TICK_S; ticks between two attempts raise, so that
Dagster's page shows that something is unsent.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from orchestration.channels import NOBODY, named, tell

TICK_S = 15.0
"""A tick begins no message after so long: with two channels of channels.PATIENCE_S it ends within a minute."""
AGAIN_S, SELDOM_S = 30.0, 3600.0
"""The time between two attempts: the first, doubled each time, and the longest."""
MOST_DOUBLED = 16
"""Doubled so often, any time between attempts is the longest; after 1,024 hourly attempts it would be no number."""

Message = Mapping[str, Any]


@dataclass(frozen=True)
class Sent:
    """What is known of the newest message of one name."""

    event: str  # what it was about: another event is another message
    left: Mapping[str, str] = field(default_factory=dict)  # channel that has not got it -> why
    tries: int = 0
    again_at: float = 0.0

    @classmethod
    def read(cls, kept: Any) -> "Sent":
        """From a cursor. One of earlier versions is [event, *channels that have not got it]."""
        return cls(kept[0], dict.fromkeys(kept[1:], "")) if isinstance(kept, list) else cls(**kept)

    def written(self) -> dict[str, Any]:
        """For the cursor."""
        return asdict(self)


def deliver(
    root: Path, wanted: Mapping[str, tuple[str, Callable[[], Message]]], known: Mapping[str, Sent]
) -> tuple[dict[str, Sent], str]:
    """Send what is wanted and has not arrived: (what is known then, a sentence; empty if there was nothing to send).

    wanted: name -> (event, its message). Raises RuntimeError if this tick has nothing to send but something is unsent.
    """
    channels, began, now = named(root), time.monotonic(), time.time()
    kept, said, unsent = dict(known), list[str](), list[str]()
    for name, (event, message) in wanted.items():
        before = known.get(name)
        if before is None or before.event != event:
            before = Sent(event, dict.fromkeys(channels, ""))
        elif not any(each in channels for each in before.left):
            continue
        if now < before.again_at or time.monotonic() - began > TICK_S:
            unsent += [f"{name}: {before.left[each] or 'not sent yet'}" for each in before.left if each in channels]
            kept[name] = before
            continue
        got, missed = tell(root, message(), [each for each in before.left if each in channels])
        wait_s = min(AGAIN_S * 2 ** min(before.tries, MOST_DOUBLED), SELDOM_S)
        kept[name] = Sent(event, missed, before.tries + 1, now + wait_s) if missed else Sent(event)
        told = f"told {', '.join(got)}" if got else "" if missed else NOBODY
        said.append(f"{name}: {'; '.join(filter(None, [told, *missed.values()]))}")
    if unsent and not said:
        raise RuntimeError(f"{'; '.join(unsent)}; it is tried again")
    return kept, "; ".join([*said, *unsent])
