"""A stage's report -> Dagster metadata: the few figures that a person reads, tables, a picture, where the rest lies.

Dagster plots numbers over time, not tables: those that DVC compares too (contracts.figures) stand by themselves.
"""

import json
import os
from collections.abc import Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import dagster as dg

from contracts.figures import COMPARED, flat
from orchestration.columns import num_rows
from orchestration.plots import bars
from orchestration.timing import wall_s
from orchestration.versions import Made

QUALITY, SHIFT, MODELS = "quality.html", "shift.html", "shift_models.html"
PAGES = {
    "quality": QUALITY,
    "quality_page": QUALITY,
    "validated_interactions": QUALITY,
    "profile": QUALITY,
    "quarantine": QUALITY,
    "ledger": QUALITY,
    "shift_audit": SHIFT,
    "shift_page": SHIFT,
    "shift_review": MODELS,
    "shift_models_page": MODELS,
}
"""Outs that a page in reports/<id>/ shows."""
SERVED_AT = "LEITMOTIF_PAGES"
"""Environment variable: the address under which `make ui` serves reports/; a browser opens no file from a page."""
LARGEST, SHORT = 60, 6
"""A table of more cells is left in the report; at most so many values of an object are one line."""


def read_report(root: Path, path: str | None) -> Mapping[str, Any]:
    """A JSON object as a stage wrote it; empty if the file is missing."""
    file = root / path if path else None
    return json.loads(file.read_text(encoding="utf-8")) if file and file.is_file() else {}


def metadata(root: Path, made: Made, out: str) -> dict[str, dg.MetadataValue]:
    """What is shown of an output: place, rows, bytes, seconds, its page; of a stage's first output the figures too."""
    path = root / next(table.path for table in made.stage.outs if table.key == out)
    is_first = out == made.stage.outs[0].key
    told = figures(read_report(root, made.stage.report), made.stage.name) if is_first else {}
    shown: dict[str, dg.MetadataValue] = {
        **told,  # first: a report names its page too, as a text that leads nowhere
        "path": dg.MetadataValue.path(str(path)),
        "dagster/uri": dg.MetadataValue.text(path.absolute().as_uri()),
        "size_bytes": dg.MetadataValue.int(made.sizes[out]),
    }
    if (rows := num_rows(path, out)) is not None:
        shown["dagster/row_count"] = dg.MetadataValue.int(rows)
    if report := made.stage.report:
        seconds = wall_s(root, report)
        shown["wall_s"] = dg.MetadataValue.text("restored") if seconds is None else dg.MetadataValue.float(seconds)
        shown["report"] = dg.MetadataValue.path(str(root / report))
        if out in PAGES:  # there, or soon: a later stage may draw it
            shown["page"] = page_link(root, (root / report).with_name(PAGES[out]))
    return shown


def page_link(root: Path, page: Path) -> dg.MetadataValue:
    """A link to a page of reports/, which opens where `make ui` serves them."""
    served = os.environ.get(SERVED_AT)
    reports = root / "reports"
    return dg.MetadataValue.url(
        f"{served.rstrip('/')}/{page.relative_to(reports).as_posix()}" if served else page.absolute().as_uri()
    )


def figures(report: Mapping[str, Any], stage: str = "") -> dict[str, dg.MetadataValue]:
    """A report's own numbers and sentences; objects as tables, unless they are large; a picture where there is one."""
    shown: dict[str, dg.MetadataValue] = {}
    for key, value in report.items():
        if (told := _value(key, value, COMPARED.get(stage, ()))) is not None:
            shown[key] = told
    for key, value in flat(report):
        if "." in key and (told := _value(key, value, ())) and _is_plotted(key, stage, f".{report.get('served')}."):
            shown[key] = told
    return {**shown, **_pictures(report, stage)}


def _is_plotted(key: str, stage: str, served: str) -> bool:
    """Of what DVC compares of every model, only the served one's; the others stand in the table."""
    matched = [pattern for pattern in COMPARED.get(stage, ()) if fnmatchcase(key, pattern)]
    return any("*" not in pattern or served in key for pattern in matched)


def _value(key: str, value: Any, compared: tuple[str, ...]) -> dg.MetadataValue | None:
    """One entry of a report; None for what has nothing to show, or too much."""
    if isinstance(value, bool):
        return dg.MetadataValue.bool(value)
    if isinstance(value, int):
        return dg.MetadataValue.int(value)
    if isinstance(value, float):
        return dg.MetadataValue.float(value)
    if isinstance(value, str) and value:
        return dg.MetadataValue.text(value)
    if isinstance(value, list) and value and all(isinstance(line, str) for line in value):
        return dg.MetadataValue.md("\n".join(f"- {line}" for line in value))
    if not isinstance(value, Mapping) or not value:
        return None
    if all(isinstance(row, Mapping) for row in value.values()):
        wanted = [pattern.rpartition(".")[2] for pattern in compared if pattern.startswith(f"{key}.")]
        rows = {name: _only(row, wanted) for name, row in value.items()}
        return dg.MetadataValue.md(table(rows)) if sum(map(len, rows.values())) <= LARGEST else None
    plain = {name: each for name, each in value.items() if not isinstance(each, Mapping)}
    if len(plain) <= SHORT:
        line = "; ".join(f"{name}: {_cell(each)}" for name, each in plain.items() if each is not None)
        return dg.MetadataValue.text(line) if line else None
    rows = {name: {key: each} for name, each in plain.items()}
    return dg.MetadataValue.md(table(rows)) if len(rows) <= LARGEST // 2 else None


def _only(row: Mapping[str, Any], wanted: list[str]) -> Mapping[str, Any]:
    return {name: row[name] for name in wanted if name in row} or row


def _pictures(report: Mapping[str, Any], stage: str) -> dict[str, dg.MetadataValue]:
    if stage == "validate" and report.get("partitions"):
        return {"rows by partition": dg.MetadataValue.md(bars("Rows by partition", report["partitions"]))}
    if stage == "evaluate" and report.get("models"):
        aucs = {name: row["auc"] for name, row in report["models"].items() if row.get("auc") is not None}
        return {"AUC by model": dg.MetadataValue.md(bars("AUC by model", aucs, [str(report.get("served"))]))}
    return {}


def table(rows: Mapping[str, Mapping[str, Any]]) -> str:
    """{"mos": {"auc": 0.7}, ...} as a markdown table, one line a name."""
    columns = list(dict.fromkeys(column for row in rows.values() for column in row))
    lines = [["", *columns], ["---"] * (len(columns) + 1)]
    lines += [[name, *(_cell(row.get(column)) for column in columns)] for name, row in rows.items()]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, list | tuple):
        return "; ".join(map(_cell, value))
    if isinstance(value, float):
        return f"{value:.3g}" if 0 < abs(value) < 0.001 else f"{value:,.4f}".rstrip("0").rstrip(".")
    text = f"{value:,}" if type(value) is int else str(value)
    return text.replace("|", "\\|").replace("\n", " ")
