"""A stage's report -> Dagster metadata: numbers that Dagster plots over time, tables of nested values."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import dagster as dg

from orchestration.timing import wall_s
from orchestration.versions import Made

PAGES = {"quality": "quality.html", "validated_interactions": "quality.html", "shift_audit": "shift.html"}
"""Outs that a page in reports/<id>/ shows."""
PLOTTED = 30
"""A table of at most so many cells is also given number by number: Dagster plots numbers, not tables."""


def read_report(root: Path, path: str | None) -> Mapping[str, Any]:
    """A JSON object as a stage wrote it; empty if the file is missing."""
    file = root / path if path else None
    return json.loads(file.read_text(encoding="utf-8")) if file and file.is_file() else {}


def metadata(root: Path, made: Made, out: str) -> dict[str, dg.MetadataValue]:
    """The metadata of one output: its path and size, how long its stage took, and the stage's figures."""
    path = next(table.path for table in made.stage.outs if table.key == out)
    shown: dict[str, dg.MetadataValue] = {
        "path": dg.MetadataValue.path(str(root / path)),
        "size_bytes": dg.MetadataValue.int(made.sizes[out]),
    }
    if report := made.stage.report:
        seconds = wall_s(root, report)
        shown["wall_s"] = dg.MetadataValue.text("restored") if seconds is None else dg.MetadataValue.float(seconds)
        shown["report"] = dg.MetadataValue.path(str(root / report))
        if out in PAGES and (page := (root / report).with_name(PAGES[out])).is_file():
            shown["page"] = dg.MetadataValue.url(page.as_uri())
    return shown | figures(read_report(root, made.stage.report))


def figures(report: Mapping[str, Any], prefix: str = "") -> dict[str, dg.MetadataValue]:
    """{"rows": 3, "dropped": {"late": 1}} -> rows, dropped.late; an object of objects becomes a table too."""
    shown: dict[str, dg.MetadataValue] = {}
    for key, value in report.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and value and all(isinstance(row, Mapping) for row in value.values()):
            shown[name] = dg.MetadataValue.md(table(value))
            if sum(map(len, value.values())) <= PLOTTED:
                shown |= figures(value, f"{name}.")
        elif isinstance(value, Mapping):
            shown |= figures(value, f"{name}.")
        elif isinstance(value, bool):
            shown[name] = dg.MetadataValue.bool(value)
        elif isinstance(value, int):
            shown[name] = dg.MetadataValue.int(value)
        elif isinstance(value, float):
            shown[name] = dg.MetadataValue.float(value)
        elif isinstance(value, str) and value:
            shown[name] = dg.MetadataValue.text(value)
        elif isinstance(value, list) and value and all(isinstance(line, str) for line in value):
            shown[name] = dg.MetadataValue.md("\n".join(f"- {line}" for line in value))
        elif value:
            shown[name] = dg.MetadataValue.md(f"```json\n{json.dumps(value, ensure_ascii=False, indent=1)}\n```")
    return shown


def table(rows: Mapping[str, Mapping[str, Any]]) -> str:
    """{"mos": {"auc": 0.7}, ...} as a markdown table, one line a name."""
    columns = list(dict.fromkeys(column for row in rows.values() for column in row))
    lines = [["", *columns], ["---"] * (len(columns) + 1)]
    lines += [[name, *(_cell(row.get(column)) for column in columns)] for name, row in rows.items()]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(value: object) -> str:
    if value is None:
        return ""
    text = f"{value:.4f}" if isinstance(value, float) else str(value)
    return text.replace("|", "\\|").replace("\n", " ")
