"""A stage's report in, the seconds that its run took out: only where that run made the report that is there."""

import json
from pathlib import Path


def took(root: Path, report: str | None) -> float | None:
    """Wall seconds; None where the report was restored (from the run cache, git or a remote), not made here.

    The runner writes the report, then its timing beside it. What is restored is the report alone, and later.
    """
    if report is None:
        return None
    timing = root / f"{report.removesuffix('.json')}.timing.json"
    try:
        if timing.stat().st_mtime_ns < (root / report).stat().st_mtime_ns:
            return None
        return float(json.loads(timing.read_text(encoding="utf-8"))["wall_s"])
    except (FileNotFoundError, KeyError):
        return None
