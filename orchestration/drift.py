"""`make drift` as an asset check of the champion: does what is served look like what the model was judged on?"""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

import dagster as dg

from orchestration.assets import POOL
from orchestration.crowned import CHAMPION
from orchestration.figures import page_link, read_report
from orchestration.group import run_group
from orchestration.promotion import reports_of

NAME = "served_looks_like_the_test"
DRIFT = (sys.executable, "-m", "serving.drift")
SHIFTED_EXIT = 3
REQUEST_LOG = "LEITMOTIF_REQUEST_LOG"
"""Environment variable: the folder in which the service keeps what it was asked."""
MOST_FIGURES = 5
ABOUT = f"""The features and scores of what was asked lately are read again and compared with the test requests of the
model (`make drift`). It reads the folder that `{REQUEST_LOG}` names where `make ui` was started, or the one that `log`
in its config names. Where nothing can be judged, that is a warning: nobody is watching."""


def build_drift_check(root: Path, command: Sequence[str] = DRIFT) -> dg.AssetChecksDefinition:
    """The check for the repository at root; it is run from the page, by its job or its schedule, and by no stage."""

    @dg.asset_check(
        asset=CHAMPION,
        name=NAME,
        description=ABOUT,
        pool=POOL,
        config_schema={"log": dg.Field(str, is_required=False, description="the folder of a request log")},
    )
    def look(context: dg.AssetCheckExecutionContext) -> dg.AssetCheckResult:
        folder = context.op_execution_context.op_config.get("log") or os.environ.get(REQUEST_LOG)
        if not folder:
            return dg.AssetCheckResult(
                passed=False,
                severity=dg.AssetCheckSeverity.WARN,
                description=f"Not judged: no request log is kept. Serve, and start `make ui`, with {REQUEST_LOG}.",
                metadata={"judged": False},
            )
        said: list[str] = []
        status = run_group([*command, folder], cwd=root, say=said.append)
        if status not in (0, SHIFTED_EXIT):
            raise dg.Failure(f"{NAME}: {said[-1] if said else 'it ended without a word'}")
        reports = reports_of(root)
        told = read_report(root, f"{reports}/drift.json")
        figures = sorted(told["figures"], key=lambda each: -each["psi"])[:MOST_FIGURES]
        judged = bool(told["state"])
        return dg.AssetCheckResult(
            passed=judged and status == 0,
            severity=dg.AssetCheckSeverity.WARN,
            description=told["sentence"] if judged else f"Not judged: {told['sentence']}",
            metadata={
                "judged": judged,
                "num_requests": told["num_requests"],
                "page": page_link(root, root / reports / "drift.html"),
                **{f"psi {each['name']}": each["psi"] for each in figures},
            },
        )

    return look
