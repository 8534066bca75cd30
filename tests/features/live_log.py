"""Live events as `make absorb` seals them, and a small table to which they come."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa

from contracts.schema import LIVE
from features.sealed.files import write_sealed

START = datetime(2024, 1, 3, tzinfo=UTC)
HEADER = "user,item,at,click\n"
LINES = [f"u{n % 7},i{n % 11},2024-01-{1 + n % 2:02d}T{n % 24:02d}:00:00,{n % 2}\n" for n in range(60)]


def event(seq: int, **given: Any) -> dict[str, Any]:
    """A sealed live event; the default is a click of u1 on i1, seq seconds after START."""
    said = {"event_id": f"live-{seq}", "revision": 0, "user_id": "u1", "item_id": "i1", "label": 1.0}
    return (
        dict.fromkeys(LIVE.names)
        | said
        | {"occurred_at": START + timedelta(seconds=seq), "role": "impression"}
        | {"seq": seq}
        | given
    )


def show(seq: int, name: str, **given: Any) -> dict[str, Any]:
    """An item that was shown in a served request, and not clicked."""
    shown = {"event_id": name, "label": 0.0, "impression_id": f"live-request-{name}", "position": 2}
    return event(seq, **shown | given)


def seal(path: Path, *events: dict[str, Any]) -> None:
    """Write one sealed file."""
    write_sealed(path, pa.Table.from_pylist(list(events), schema=LIVE))


def write_table(path: Path, *more: str) -> Path:
    """A raw log of 60 rows of 7 users, and the lines given."""
    path.write_text(HEADER + "".join(LINES) + "".join(more))
    return path
