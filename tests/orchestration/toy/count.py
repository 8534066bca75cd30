"""numbers in, their sum out. Above 12 it refuses its input; above 99 its result; a block_s above 9000 makes it slow.

A file `hold` holds it in its middle.
"""

import logging
import time
from pathlib import Path

from toy.words import TOO_LARGE

from contracts.errors import CheckFailed, InputError
from contracts.publish import publish
from contracts.stage import Report, main
from features.terms.params import AuditParams, RequestParams


def run(data: Path, audit: AuditParams, request: RequestParams) -> Report:
    """Write totals/."""
    with Path("runs.txt").open("a") as log:
        log.write("count\n")
    with publish(data, "totals") as staging:
        logging.getLogger("leitmotif").info("counting")
        while Path("hold").exists():
            Path("held").touch()
            time.sleep(0.02)
        if request.block_s > 9000:
            time.sleep(60)
        if 12 < audit.min_session_events < 99:
            raise InputError(TOO_LARGE.format(value=audit.min_session_events))
        total = sum(map(int, (data / "interactions" / "numbers.txt").read_text().split()))
        (staging / "totals" / "total.txt").write_text(str(total + audit.min_session_events))
        if audit.min_session_events >= 99:
            raise CheckFailed(f"the total of {total} is refused")
    return {"total": total, "share": 0.5, "parts": {"a": {"rows": 1}, "b": {"rows": 2}}, "note": "plain", "none": None}


if __name__ == "__main__":
    main(run)
