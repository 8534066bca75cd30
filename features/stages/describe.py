"""The outputs of validate and histories -> the quality of the log: quality.json, and the quality page in reports/<id>/.

The page is an out like its figures, so DVC stores both. It also shows what has changed since the last different run,
and the runs so far.
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
    """Write the ledger, the figures of every partition, the outcome of every expectation, and the page."""
    from features.pages.quality import judged, summary, write_quality  # imports Altair, so only when a page is written

    root = data.parent.parent
    quality = quality_of(data, lambda places: originals(source, places))
    page = root / "reports" / data.name / PAGE
    state, sentence = judged(quality)
    with publish(data, "quality") as staging:
        write_json(staging / "quality" / FIGURES, quality | {"state": state, "sentence": sentence})
        before, runs = _runs(root / ".state" / data.name / "quality.json", quality, summary(quality))
        num_bytes = write_quality(page, quality, before, DOCS.format(id=data.name), runs)
    log.info("%s See %s", sentence, page)
    return {
        "page": page.relative_to(root).as_posix(),
        "page_bytes": num_bytes,
        "rows_read": quality["rows_read"],
        "state": state,
        "sentence": sentence,
        "failed": [each["why"] for each in quality["expectations"] if not each["passed"] and each["of"] != "rule"],
    }


def _runs(
    path: Path, quality: dict[str, Any], row: dict[str, Any]
) -> tuple[dict[str, Any] | None, list[dict[str, Any]]]:
    """(the last run with a different result, one row per run, oldest first). Stores this run for the next one.

    A run that repeats the result of the last one is not added. path: where runs are stored. row: of this run.
    """
    state = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    brief = {key: quality[key] for key in ("rows_read", "ledger", "expectations", "partitions")}
    now = state.get("now")
    if now is None or {key: now[key] for key in brief} != json.loads(json.dumps(brief)):
        told_at = datetime.now(UTC).isoformat(timespec="minutes")[:16].replace("T", " ") + " UTC"
        rows = [*state.get("runs", []), row | {"told_at": told_at}]
        state = {"before": now, "now": brief | {"told_at": told_at}, "runs": rows[-MOST_RUNS:]}
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, state)
    return state["before"], state.get("runs", [])


if __name__ == "__main__":
    main(run)
