"""interactions in, figures of as many days out; a day of more than audit.min_session_events rows fails.

A file `hold` holds it in its middle.
"""

import json
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from contracts.publish import publish
from contracts.stage import Report, main
from features.quality.outcomes import SHOWN
from features.quality.profile import PROFILE
from features.terms.params import AuditParams

FIRST = datetime(2024, 1, 1, tzinfo=UTC)


def run(data: Path, audit: AuditParams) -> Report:
    """Write profile/."""
    with Path("runs.txt").open("a") as log:
        log.write("judge\n")
    numbers = [int(line) for line in (data / "interactions" / "numbers.txt").read_text().split()]
    rows = [_row(f"{FIRST + timedelta(days=place):%Y-%m-%d}", number + 1) for place, number in enumerate(numbers)]
    failed = [row for row in rows if row["rows_in"] > audit.min_session_events]
    outcome = {
        "of": "partitions",
        "why": "no day has too many rows",
        "severity": "warning",
        "limit": f"at most {audit.min_session_events}",
        "passed": not failed,
        "num_judged": len(rows),
        "num_unexpected": len(failed),
        "examples": [{"where": row["partition"], "value": row["rows_in"]} for row in failed[:SHOWN]],
    }
    with publish(data, "profile") as staging:
        while Path("hold").exists():
            Path("held").touch()
            time.sleep(0.02)
        pq.write_table(pa.Table.from_pylist(rows, schema=PROFILE), staging / "profile" / "partitions.parquet")
        (staging / "profile" / "expectations.json").write_text(json.dumps({"expectations": [outcome]}))
    return {"days": len(rows)}


def _row(day: str, num: int) -> dict[str, object]:
    zeros = {field.name: 0 for field in PROFILE if pa.types.is_integer(field.type)}
    shares = {field.name: 0.5 for field in PROFILE if pa.types.is_floating(field.type)}
    return {**zeros, **shares, "partition": day, "rows_in": num, "rows_valid": num, "clicks": num // 2}


if __name__ == "__main__":
    main(run)
