"""The audit and the evaluation -> the audit's page with every model's AUC by requests since the shift."""

import csv
import json
import logging
from pathlib import Path
from typing import Any

from contracts.publish import publish, write_json
from contracts.stage import Report, main

log = logging.getLogger("leitmotif")

PAGE = "shift_models.html"


def run(data: Path) -> Report:
    """Writes a second page; the audit's own page, without models, stays as it is."""
    from features.pages.shift import write_shift  # imports Altair: slow, and only needed to write a page

    audit = json.loads((data / "shift_audit" / "audit.json").read_text(encoding="utf-8"))
    models = read_models(data / "metrics" / "by_shift.csv")
    page = data.parent.parent / "reports" / data.name / PAGE
    with publish(data, "shift_review") as staging:
        write_json(staging / "shift_review" / "review.json", audit | {"models": models})
        num_bytes = write_shift(page, audit, models)
    log.info("See %s", page)
    first = {row["model"]: row["auc"] for row in models if row["since_shift"] == 0}
    return {"page": f"reports/{data.name}/{PAGE}", "page_bytes": num_bytes, "auc_first_after_shift": first}


def read_models(path: Path) -> list[dict[str, Any]]:
    """One row per model and number of requests since the shift: AUC and number of requests."""
    with path.open(newline="", encoding="utf-8") as handle:
        return [
            {
                "model": row["model"],
                "since_shift": int(row["since_shift"]),
                "auc": float(row["auc"]) if row["auc"] else None,
                "requests": int(row["requests"]),
            }
            for row in csv.DictReader(handle)
        ]


if __name__ == "__main__":
    main(run)
