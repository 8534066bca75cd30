"""The figures of a stage's report that people compare: what `dvc metrics` and `dvc exp show` list.

The report itself is declared as a DVC plot without a template: as a metric it would add about 270 columns, and as an
uncached output it would disable DVC's run cache.
"""

from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from contracts.publish import write_json

COMPARED: Mapping[str, tuple[str, ...]] = {
    "ingest": ("rows_written",),
    "validate": ("rows_valid", "rows_quarantined", "rows_duplicated"),
    "histories": ("num_users", "num_items", "num_events", "num_requests"),
    "audit": ("hop_rate", "return_rate"),
    "materialize": ("parity.checked", "parity.mismatches"),
    "train": ("num_parameters", "best_epoch"),
    "evaluate": (
        "models.*.auc",
        "models.*.iauc",
        "models.*.logloss",
        "models.mos.calibration_error",
        "theme_recovery_nmi",
        "verdict.passed",
    ),
}
"""Stage -> keys of its report; * matches any key. dvc.yaml lists the files of these stages as metrics."""


def write_figures(path: Path, stage: str, report: Mapping[str, Any]) -> None:
    """Write the compared figures of a stage's report; nothing for a stage without any."""
    wanted = COMPARED.get(stage)
    if wanted is None:
        return
    chosen: dict[str, Any] = {}
    for key, value in flat(report):
        if any(fnmatchcase(key, pattern) for pattern in wanted):
            *parents, name = key.removeprefix("models.").split(".")
            place = chosen
            for parent in parents:
                place = place.setdefault(parent, {})
            place[name] = value
    write_json(path, chosen)


def flat(report: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """{"models": {"mos": {"auc": 0.8}}} -> ("models.mos.auc", 0.8)."""
    for key, value in report.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
