"""Where a source's online state lies, and the stamp that says which snapshot it was loaded from."""

import json
from pathlib import Path
from typing import Any

STAMP = "stamp.json"


def state_of(data: Path) -> Path:
    """data/<source> -> .state/<source>/feast, under the same root."""
    return data.parent.parent / ".state" / data.name / "feast"


def read_stamp(state: Path) -> dict[str, Any] | None:
    """snapshot.json as it was when the state was loaded, and `stored`, the loaded files' hashes.

    None where no load has finished there.
    """
    try:
        return json.loads((state / STAMP).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
