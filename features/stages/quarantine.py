"""`make quarantine`: list quarantined rows by reason, export them for repair, take repaired rows back into the log.

Repaired rows become one more file in the source's folder, which ingest reads like any other at its next run. The rows
that they replace stay in quarantine and are counted there.
"""

import argparse
import csv
import json
import re
import shutil
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from contracts.errors import InputError
from contracts.params import load_params
from features.quality.record import held_back
from features.sources import live, movielens
from features.sources.delimited import read_header
from features.sources.files import AUTO, DELIMITERS, PARQUET, describe
from features.sources.log import Log
from features.sources.originals import file_of, originals, records
from features.sources.table import read_table
from features.sources.tombstones import REASON as FORGOTTEN
from features.tables.ledger import JOINED, OUTCOME_JOINED, ROWS
from features.terms.params import SourceParams, ValidateParams
from features.terms.rules import REPEATED, first_broken, rules

NOTES = ("_reason", "_file", "_line")
"""Columns that an export adds to say why a row is in it. A repaired file may keep them; they are not read."""
MOST_NAMED = 5
TAKEN = re.compile(r"repaired-(\d+)\.")
NO_FAULTS = (FORGOTTEN, JOINED, OUTCOME_JOINED, live.LOGGED, live.REPEATED, movielens.REPEATED, REPEATED)
"""Reasons of rows that need no repair: another row has the same content, or the user asked to be forgotten."""


def main() -> None:
    """The command. It exits with 2 if it cannot do what was asked."""
    parser = argparse.ArgumentParser(prog="make quarantine", description=__doc__)
    parser.add_argument("--export", type=Path, help="write the original rows to a CSV")
    parser.add_argument("--repaired", type=Path, help="add the repaired rows of a CSV to the log's folder")
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
    """Lines of text: every reason with its number of rows, and the first of them."""
    reasons = held_back(rejected, quarantine, lambda places: originals(source, places))
    if not reasons:
        return [f"No row of {source.id} is in quarantine."]
    lines = []
    for each in reasons:
        lines.append(f"{each['rows']:>10,}  {each['reason']} ({each['stage']})")
        for example in each["examples"]:
            shown = example["raw"] or ", ".join(f"{name}={value}" for name, value in example["row"].items())
            text = repr(shown) if shown else "(text left out)"
            lines.append(f"{'':12}{example['file']} line {example['line']}: {text}")
    return [*lines, "", "Repair: make quarantine ARGS='--export held.csv', then ARGS='--repaired held.csv'."]


def export(rejected: Path, quarantine: Path, source: SourceParams, path: Path) -> str:
    """Write the rows that need repair, in the columns of their text files; returns a sentence about it."""
    rows = pq.read_table(quarantine, columns=["file", "line", "reason"]).to_pylist()
    rows += [row for row in pq.read_table(rejected / ROWS).to_pylist() if row["line"] > 0 and row["raw"]]
    by_file: dict[str, dict[int, str]] = defaultdict(dict)
    for row in rows:
        if row["reason"] not in NO_FAULTS:
            by_file[row["file"]][row["line"]] = row["reason"]
    if not by_file:
        return f"No row of {source.id} needs repair."
    names: dict[str, None] = {}
    exported: list[dict[str, Any]] = []
    left = {"are rows of Parquet files and are not exported": 0, "are in text files that no longer exist": 0}
    for name, reasons in sorted(by_file.items()):
        file = file_of(source, name)
        is_parquet = file is not None and file.kind == PARQUET
        header = None if file is None or is_parquet else read_header(file, _wanted(source))
        found = records(file, header, reasons) if file and header else {}
        names |= dict.fromkeys(header.names if header else ())
        for line, fields in found.items():
            values = dict(zip(header.names if header else (), fields, strict=False))
            exported.append(values | dict(zip(NOTES, (reasons[line], name, line), strict=True)))
        left[next(iter(left)) if is_parquet else list(left)[-1]] += len(reasons) - len(found)
    try:
        with path.open("w", newline="", encoding="utf-8") as handle:
            writer = csv.DictWriter(handle, [*names, *NOTES], restval="")
            writer.writeheader()
            writer.writerows(exported)
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror}. Name a file in an existing folder.") from error
    return "; ".join([f"{len(exported):,} rows are in {path}", *(f"{n:,} {why}" for why, n in left.items() if n)]) + "."


def _wanted(source: SourceParams) -> list[str]:
    """The columns of the log's files that are read."""
    return [name for name in source.columns.model_dump().values() if name is not None]


def take_back(source: SourceParams, validate: ValidateParams, path: Path) -> str:
    """Check repaired rows by the rules for all rows and copy them into the log's folder; returns a sentence about it.

    Raises InputError if the log is not a folder of a table, or any row is still not valid.
    """
    folder = Path(source.path).expanduser()
    if source.name != "table" or not folder.is_dir():
        raise InputError(
            f"source.path: {source.path} is not a folder of a table, in which repaired rows become one more file. Move "
            "the log's file into a folder and name the folder: make set ARGS='source.path=<folder>' (source.same_as "
            "keeps the log's name)."
        )
    read = _read(source, path, AUTO)
    bad = [f"line {row['line']}: {row['reason']}" for row in read.rejected.to_pylist()]
    bad += _broken(read.events, validate)
    if bad or not len(read.events):
        raise InputError(
            f"{path}: {len(bad):,} rows are still not valid ({'; '.join(bad[:MOST_NAMED])}); none was taken. Repair "
            "them, or leave them out."
            if bad
            else f"{path} has no rows."
        )
    taken = [int(found[1]) for each in folder.iterdir() if (found := TAKEN.match(each.name))]
    target = folder / f"repaired-{1 + max(taken, default=0):03}.csv"
    hidden = target.with_name(f".{target.name}")
    try:
        _write_as(source, path, hidden)
        again = _read(source, hidden, source.format)
        if len(again.rejected) or len(again.events) != len(read.events):
            raise InputError(
                f"{path} cannot be read as source.format={source.format}; no row was taken. Save it in this format."
            )
        hidden.replace(target)
    finally:
        hidden.unlink(missing_ok=True)
    return f"{len(read.events):,} repaired rows are in {target}. Next: make run."


def _read(source: SourceParams, path: Path, format: str) -> Log:
    return read_table(source.model_copy(update={"path": str(path), "format": format}), frozenset())


def _write_as(source: SourceParams, path: Path, target: Path) -> None:
    """Copy repaired rows in the format of the log's files. Raises InputError if they cannot be converted."""
    file = describe(path, path.name)
    header = None if file.kind == PARQUET else read_header(file, _wanted(source))
    delimiter = DELIMITERS.get(source.format)
    form = PARQUET if header is None else header.delimiter
    if source.format == AUTO or form in (delimiter, source.format):
        shutil.copyfile(path, target)
    elif header is None or delimiter is None or len(delimiter) > 1:
        raise InputError(f"{path} is not in the log's format, source.format={source.format}. Save it in this format.")
    else:
        with target.open("w", newline="", encoding="utf-8") as handle:
            writer = csv.writer(handle, delimiter=delimiter)
            writer.writerow(header.names)
            writer.writerows(records(file, header).values())


def _broken(events: pa.Table, validate: ValidateParams) -> list[str]:
    checks = rules(validate)
    found: list[str] = []
    for row in events.to_pylist():
        if rule := first_broken(_values(row), checks):
            found.append(f"line {row['line']}: {rule.reason}")
    return found


def _values(row: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name not in ("file", "line")}


def _newest(data: Path) -> Path:
    """The folder of the newest quarantine: of the last attempt if it was refused, else of the last good run."""
    attempt = Path("attempts") / "validate"
    refused, failure = attempt / "made" / "quarantine", attempt / "failure.json"
    is_ours = failure.is_file() and json.loads(failure.read_text(encoding="utf-8")).get("source") == data.name
    newest = refused if refused.is_dir() and is_ours else data / "quarantine"
    if not newest.is_dir():
        raise InputError(f"{newest} does not exist. Run `make run ARGS=validate`.")
    return newest


if __name__ == "__main__":
    main()
