"""Rows of figures -> reports/<source>/<name>.json and .md, with the command and the hardware that made them."""

import os
import platform
import shlex
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from contracts.publish import write_json

Row = Mapping[str, Any]


def write_table(folder: Path, name: str, about: Mapping[str, Any], rows: Sequence[Row]) -> str:
    """Write both files and return the Markdown. about: notes that apply to every row."""
    made = {"command": command(), "hardware": hardware(), **about}
    write_json(folder / f"{name}.json", {**made, "rows": list(rows)})
    said = "\n".join(f"- {key.replace('_', ' ')}: {_value(value)}" for key, value in made.items())
    text = f"# {name.replace('_', ' ')}\n\n{said}\n\n{markdown(rows)}\n"
    (folder / f"{name}.md").write_text(text, encoding="utf-8")
    return text


def markdown(rows: Sequence[Row]) -> str:
    """A Markdown table with the keys of the first row as its head."""
    head = list(rows[0])
    lines = [head, ["---"] * len(head), *([_cell(row.get(key)) for key in head] for row in rows)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def command() -> str:
    """The command line."""
    module = sys.modules["__main__"].__spec__
    return shlex.join(["python", "-m", module.name if module else sys.argv[0], *sys.argv[1:]])


def hardware() -> str:
    """The processor, the number of cores that this process may use, and software versions."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as handle:
            names = [line.partition(":")[2].strip() for line in handle if line.startswith("model name")]
    except OSError:
        names = []
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    libraries = ", ".join(f"{name} {version(name)}" for name in ("numpy", "torch", "lightgbm") if find_spec(name))
    return (
        f"{names[0] if names else platform.processor()}, {cores} cores, Python {platform.python_version()}, {libraries}"
    )


def _value(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_cell(inner)}" for key, inner in value.items())
    return _cell(value)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.4f}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)
