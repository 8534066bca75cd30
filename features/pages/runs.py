"""The runs of a log on this machine, oldest first -> a section of the quality page with their charts."""

from collections.abc import Mapping, Sequence
from typing import Any

from features.pages import charts
from features.pages.document import GOOD, WARNS, figure, percent, section, table

Report = Mapping[str, Any]
TITLE = "The runs so far"
MOST_DRAWN, MOST_ROWS = 60, 12
_OUTCOMES = {GOOD: "✓", WARNS: "! warnings"}


def over_runs(runs: Sequence[Report]) -> str:
    """Rows by fate and failed expectations of every run; empty if there was only one run."""
    if len(runs) < 2:
        return ""
    drawn: list[dict[str, Any]] = [
        {**row} | {"partition": f"{place}", "rows_lost": row["rows_read"] - row["rows_used"]}
        for place, row in enumerate(runs[-MOST_DRAWN:], max(len(runs) - MOST_DRAWN, 0) + 1)
    ]
    fates = (("rows_used", "valid", charts.SKY), ("rows_lost", "not used", charts.RED))
    rows = charts.svg(charts.stacked(drawn, fates, "rows"), "Rows by run", "valid and not used")
    failed = charts.svg(
        charts.lines(drawn, (("num_failed", "failed", charts.BLUE),), "expectations"), "Failed expectations by run"
    )
    columns = ("run", "made at", "rows read", "valid", "not used", "failed", "newest event", "outcome")
    cells = [
        (
            int(row["partition"]), row["told_at"], row["rows_read"], row["rows_used"],
            percent(row["rows_lost"] / row["rows_read"]), row["num_failed"], row["newest"] or "–",
            _OUTCOMES.get(row["state"], row["state"]),
        )
        for row in reversed(drawn[-MOST_ROWS:])
    ]  # fmt: skip
    return section(
        TITLE,
        f'<div class="charts">{figure(rows, "Rows", "by fate, run by run")}'
        f"{figure(failed, 'Failed expectations', 'run by run')}</div>",
        table(columns, cells, numbers=(0, 2, 3, 4, 5), caption=TITLE),
        lead=f"{len(runs):,} runs of this log on this machine, each different from the one before; the newest first.",
    )
