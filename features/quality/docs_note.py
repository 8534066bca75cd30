"""Great Expectations' pages and a sentence in, the sentence on top of each page: what its own figures leave out.

An expectation holds where few enough rows fail it, so "19 of 19 succeeded" is also said of a log with rows held back.
"""

import html
from collections.abc import Mapping
from pathlib import Path
from typing import Any

BODY = "<body>"


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


def put_on_top(docs: Path, sentence: str) -> None:
    """Write the sentence into the first page and every page of results; a page that has one gets no second."""
    note = f'{BODY}\n<p role="note" style="margin:0;padding:.75rem 1rem;background:#fff3cd">{html.escape(sentence)}</p>'
    for page in [docs / "index.html", *sorted((docs / "validations").rglob("*.html"))]:
        text = page.read_text(encoding="utf-8")
        if BODY in text and note not in text:
            page.write_text(text.replace(BODY, note, 1), encoding="utf-8")
