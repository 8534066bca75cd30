"""`make quarantine`: rows held back, by reason with examples; exported to be repaired; repaired rows back into the log.

Repaired rows take the way of all rows: they become one more file of the source's folder, which ingest reads next time.
The rows that they stand for stay held back and counted.
"""

import argparse
import csv
import io
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from contracts.errors import InputError
from contracts.params import load_params
from features.quality.record import held_back
from features.sources.originals import originals
from features.sources.table import read_table
from features.tables.ledger import ROWS
from features.terms.params import SourceParams, ValidateParams
from features.terms.rules import first_broken, rules

NOTES = ("_reason", "_file", "_line")
"""Columns of an export that say why a row is there; a repaired file may keep them, they are not read."""
MOST_NAMED = 5


def main() -> None:
    """Exits 2 where something that was asked for cannot be done."""
    parser = argparse.ArgumentParser(prog="make quarantine", description=__doc__)
    parser.add_argument("--export", type=Path, help="write these rows, as they stood in their files, to a CSV")
    parser.add_argument("--repaired", type=Path, help="take the repaired rows of a CSV into the log's folder")
    asked = parser.parse_args()
    try:
        params = load_params()
        data = Path("data") / params["source"].id
        if asked.repaired:
            print(take_back(params["source"], params["validate"], asked.repaired))
        elif asked.export:
            print(export(data / "rejected", _newest(data), params["source"], asked.export))
        else:
            print("\n".join(listing(data / "rejected", _newest(data), params["source"])))
    except InputError as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)


def listing(rejected: Path, quarantine: Path, source: SourceParams) -> list[str]:
    """Every reason with its rows, and the first of them."""
    reasons = held_back(rejected, quarantine, lambda places: originals(source, places))
    if not reasons:
        return [f"Nothing of {source.id} is held back."]
    lines = []
    for each in reasons:
        lines.append(f"{each['rows']:>10,}  {each['reason']} ({each['stage']})")
        for example in each["examples"]:
            shown = example["raw"] or ", ".join(f"{name}={value}" for name, value in example["row"].items())
            text = repr(shown) if shown else "(text left out)"
            lines.append(f"{'':12}{example['file']} line {example['line']}: {text}")
    return [*lines, "", "Repair: make quarantine ARGS='--export held.csv', then ARGS='--repaired held.csv'."]


def export(rejected: Path, quarantine: Path, source: SourceParams, path: Path) -> str:
    """Write the rows that stand in text files in their own columns; returns what to say."""
    rows = pq.read_table(quarantine, columns=["file", "line", "reason"]).to_pylist()
    rows += [row for row in pq.read_table(rejected / ROWS).to_pylist() if row["line"] > 0 and row["raw"]]
    if not rows:
        return f"Nothing of {source.id} is held back."
    places = [(row["file"], row["line"]) for row in rows]
    texts = originals(source, places)
    headers = originals(source, [(file, 1) for file, _ in places])
    names: list[str] = []
    told = []
    for row in sorted(rows, key=lambda row: (row["file"], row["line"])):
        text = texts.get((row["file"], row["line"]))
        header = _fields(headers.get((row["file"], 1), ""))
        if text is None or not header:
            continue
        fields = dict(zip(header, _fields(text), strict=False))
        names += [name for name in header if name not in names]
        told.append(fields | dict(zip(NOTES, (row["reason"], row["file"], row["line"]), strict=True)))
    with path.open("w", newline="", encoding="utf-8") as handle:
        writer = csv.DictWriter(handle, [*names, *NOTES], restval="")
        writer.writeheader()
        writer.writerows(told)
    left = len(rows) - len(told)
    return f"{len(told):,} rows are in {path}" + (
        f"; {left:,} others stand in no text file that is there." if left else "."
    )


def take_back(source: SourceParams, validate: ValidateParams, path: Path) -> str:
    """Check repaired rows by the rules of all rows, and lay them beside the log's files. Raises InputError."""
    folder = Path(source.path).expanduser()
    if source.name != "table" or not folder.is_dir():
        raise InputError(
            f"source.path: {source.path} is no folder of a table, and repaired rows become one more file there. Move "
            "the log's file into a folder, and name that: make set ARGS='source.path=<folder>' (source.same_as keeps "
            "the log's name)."
        )
    read = read_table(source.model_copy(update={"path": str(path), "format": "auto"}), frozenset())
    bad = [f"line {row['line']}: {row['reason']}" for row in read.rejected.to_pylist()]
    bad += _broken(read.events, validate)
    if bad or not len(read.events):
        raise InputError(
            f"{path}: {len(bad):,} rows are not repaired ({'; '.join(bad[:MOST_NAMED])}), none was taken. Mend them, "
            "or leave them out."
            if bad
            else f"{path} holds no row."
        )
    number = 1 + sum(1 for _ in folder.glob("repaired-*.csv"))
    target = folder / f"repaired-{number:03}.csv"
    shutil.copyfile(path, target.with_name(f".{target.name}"))
    target.with_name(f".{target.name}").replace(target)
    return f"{len(read.events):,} repaired rows are in {target}. Next: make run."


def _broken(events: pa.Table, validate: ValidateParams) -> list[str]:
    checks = rules(validate)
    found: list[str] = []
    for row in events.to_pylist():
        if rule := first_broken(_values(row), checks):
            found.append(f"line {row['line']}: {rule.reason}")
    return found


def _values(row: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name not in ("file", "line")}


def _fields(text: str) -> Sequence[str]:
    delimiter = max(",;\t|", key=text.count)
    return next(csv.reader(io.StringIO(text), delimiter=delimiter), [])


def _newest(data: Path) -> Path:
    """Where the quarantine lies: with the attempt that was refused last, else where the last good one stands."""
    refused = Path("attempts") / "validate" / "made" / "quarantine"
    standing = refused if refused.is_dir() else data / "quarantine"
    if not standing.is_dir():
        raise InputError(f"{standing} is not there. Run `make run ARGS=validate`.")
    return standing


if __name__ == "__main__":
    main()
