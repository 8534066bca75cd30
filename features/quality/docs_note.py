"""validate's report -> what Great Expectations' own figures leave out of it, in a sentence."""

from collections.abc import Mapping
from typing import Any


def held_back(report: Mapping[str, Any]) -> str:
    """What validate held back, beside what its expectations say."""
    num, failed = report["num_expectations"], report["failed_expectations"] or []
    reasons = "; ".join(f"{reason}: {rows:,}" for reason, rows in sorted(report["quarantined_by_reason"].items()))
    return (
        f"{num - len(failed)} of {num} expectations hold within their limits"
        + (f" (not: {', '.join(failed)})" if failed else "")
        + f"; of {report['rows_in']:,} rows {report['rows_quarantined']:,} are held back in quarantine"
        + (f" ({reasons})" if reasons else "")
        + f" and {report['rows_duplicated']:,} repeat another and are left out."
    )
