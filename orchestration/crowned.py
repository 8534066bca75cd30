"""champions/<id> -> Dagster's asset `champion`: the version that is served, whoever promoted it or rolled it back."""

import json
from pathlib import Path
from typing import NamedTuple

import dagster as dg

from orchestration.figures import figures, read_report
from orchestration.graph import Graph
from orchestration.internals import DATA_VERSION_IS_USER_PROVIDED_TAG, DATA_VERSION_TAG

BUNDLE = "bundle"
CHAMPION = dg.AssetKey("champion")
CROWNING = "crown_champion"
"""The step that promotes and reports the champion itself."""
MANIFEST, HASH, SHORT = "bundle.json", "bundle_hash", 12
"""Where a bundle's version stands: so many characters of its hash (serving/bundle/manifest.py)."""
REPORTS = {"promotion.json": "candidate", "rollback.json": "champion"}
"""A report of those that crown, and the entry that names the version that it crowned."""


class Crowned(NamedTuple):
    """The champion."""

    version: str
    report: Path | None  # that of the command that crowned it, from the repository's root; None: gone, or of another


def crowned(graph: Graph) -> Crowned | None:
    """The champion of the present source; None if there is none, or no readable one."""
    bundle = next((out for out in graph.outs if out.key == BUNDLE), None)
    if bundle is None:
        return None
    source = Path(bundle.path).parent.name
    try:
        version = json.loads((graph.root / "champions" / source / BUNDLE / MANIFEST).read_text(encoding="utf-8"))[HASH]
    except (OSError, ValueError, KeyError):  # a folder is being put in its place, or is damaged: `make serve` says so
        return None
    reports = Path("reports") / source
    named = [reports / name for name, entry in REPORTS.items() if _names(graph.root / reports / name, entry, version)]
    newest = max(named, key=lambda path: (graph.root / path).stat().st_mtime, default=None)
    return Crowned(version[:SHORT], newest)


def record_champion(instance: dg.DagsterInstance, graph: Graph) -> list[str]:
    """Report the champion to Dagster if it shows another; returns what was reported."""
    found = crowned(graph)
    event = instance.get_latest_data_version_record(CHAMPION) if found else None
    if found is None or (event and (event.event_log_entry.tags or {}).get(DATA_VERSION_TAG) == found.version):
        return []
    told = figures(read_report(graph.root, str(found.report))) if found.report else {}
    tags = {DATA_VERSION_TAG: found.version, DATA_VERSION_IS_USER_PROVIDED_TAG: "true"}
    instance.report_runless_asset_event(
        dg.AssetMaterialization(CHAMPION, metadata={**told, "model_version": found.version}, tags=tags)
    )
    return [CHAMPION.to_user_string()]


def _names(report: Path, entry: str, version: str) -> bool:
    """Whether a report says that it crowned this version."""
    try:
        told = json.loads(report.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    one = told.get(entry)
    named = one.get("model_version") if isinstance(one, dict) else one
    return told.get("promoted", True) and named == version[:SHORT]
