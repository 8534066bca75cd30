"""A report -> the seconds in which it was made; none if it was restored from the cache."""

import json
from pathlib import Path

from contracts.publish import digest_of


def wall_s(root: Path, report: str | None) -> float | None:
    """What <stage>.timing.json says, where it says it of this very report."""
    path = root / (report or "")
    timing = path.with_name(f"{path.stem}.timing.json")
    if not path.is_file() or not timing.is_file():
        return None
    told = json.loads(timing.read_text(encoding="utf-8"))
    return float(told["wall_s"]) if told.get("of") == digest_of(path) else None
