"""A report -> what its stage noted beside it; nothing if the report was restored from the cache."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from contracts.publish import digest_of


def wall_s(root: Path, report: str | None) -> float | None:
    """The seconds in which it was made."""
    told = noted(root, report)
    return float(told["wall_s"]) if told else None


def noted(root: Path, report: str | None) -> Mapping[str, Any]:
    """What <stage>.timing.json says, where it says it of this very report; else nothing."""
    path = root / (report or "")
    timing = path.with_name(f"{path.stem}.timing.json")
    if not path.is_file() or not timing.is_file():
        return {}
    told = json.loads(timing.read_text(encoding="utf-8"))
    return told if told.get("of") == digest_of(path) else {}
