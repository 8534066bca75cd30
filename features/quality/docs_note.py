"""validate's report -> a sentence that adds to Great Expectations' figures what was quarantined."""

from collections.abc import Mapping
from typing import Any


def held_back(report: Mapping[str, Any]) -> str:
    """How many expectations hold, and how many rows are quarantined or repeat another."""
    num, failed = report["num_expectations"], report["failed_expectations"] or []
    reasons = "; ".join(f"{reason}: {rows:,}" for reason, rows in sorted(report["quarantined_by_reason"].items()))
    return (
        f"{num - len(failed)} of {num} expectations of the log as a whole hold within their limits"
        + (f" (not: {', '.join(failed)})" if failed else "")
        + f"; of {report['rows_in']:,} rows {report['rows_quarantined']:,} are held back in quarantine"
        + (f" ({reasons})" if reasons else "")
        + f" and {report['rows_duplicated']:,} repeat another and are left out."
    )
