"""What validate and histories left -> how good the log is: quality.json, and the quality page in reports/<id>/.

The page is an out as its figures are, so DVC keeps it beside them. It also says what had changed since the last run
when it was made, and shows the runs so far.
"""

import json
import logging
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from contracts.publish import publish, write_json
from contracts.stage import Report, main
from features.quality.record import quality_of
from features.sources.originals import originals
from features.terms.params import SourceParams

log = logging.getLogger("leitmotif")

PAGE, FIGURES = "quality.html", "quality.json"
DOCS = "../../.state/{id}/data_docs/index.html"
MOST_RUNS = 500


def run(data: Path, source: SourceParams) -> Report:
    """Every fate of the ledger, every figure by partition, every outcome; and the page that shows them."""
    from features.pages.quality import judged, summary, write_quality  # Altair: only where a page is written

    root = data.parent.parent
    told = quality_of(data, lambda places: originals(source, places))
    page = root / "reports" / data.name / PAGE
    state, sentence = judged(told)
    with publish(data, "quality") as staging:
        write_json(staging / "quality" / FIGURES, told | {"state": state, "sentence": sentence})
        before, runs = _runs(root / ".state" / data.name / "quality.json", told, summary(told))
        num_bytes = write_quality(page, told, before, DOCS.format(id=data.name), runs)
    log.info("%s See %s", sentence, page)
    return {
        "page": page.relative_to(root).as_posix(),
        "page_bytes": num_bytes,
        "rows_read": told["rows_read"],
        "state": state,
        "sentence": sentence,
        "failed": [each["why"] for each in told["expectations"] if not each["passed"] and each["of"] != "rule"],
    }


def _runs(kept: Path, told: dict[str, Any], row: dict[str, Any]) -> tuple[dict[str, Any] | None, list[dict[str, Any]]]:
    """The last run that told something else, and a row for each run, oldest first; this one is kept for the next.

    A run that repeats the last one is none of its own. row: this run's.
    """
    state = json.loads(kept.read_text(encoding="utf-8")) if kept.exists() else {}
    brief = {key: told[key] for key in ("rows_read", "ledger", "expectations", "partitions")}
    now = state.get("now")
    if now is None or {key: now[key] for key in brief} != json.loads(json.dumps(brief)):
        told_at = datetime.now(UTC).isoformat(timespec="minutes")[:16].replace("T", " ") + " UTC"
        rows = [*state.get("runs", []), row | {"told_at": told_at}]
        state = {"before": now, "now": brief | {"told_at": told_at}, "runs": rows[-MOST_RUNS:]}
        kept.parent.mkdir(parents=True, exist_ok=True)
        write_json(kept, state)
    return state["before"], state.get("runs", [])


if __name__ == "__main__":
    main(run)
