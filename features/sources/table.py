"""Delimited text or Parquet, plain or compressed, a file or a folder, and a mapping of its columns -> a log."""
# pyright: reportAttributeAccessIssue=false

import logging
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from contracts.errors import InputError
from features.sealed.forgotten import Forgotten, are_forgotten
from features.sources.about import items_of
from features.sources.delimited import read_header
from features.sources.files import ADVICE, DataFile, find_files, named
from features.sources.log import EVENTS, Log
from features.sources.parse import KEYS, WHOLE
from features.sources.rows import FileRows, read_file
from features.terms.params import ColumnParams, SourceParams

log = logging.getLogger("leitmotif")

REQUIRED = ("user_id", "item_id", "occurred_at")
WHOLE_ID = r"^-?\d+\.0+$"
FRACTION = r"^-?\d+\.\d*[1-9]\d*$"
FEW = 100
"""If one id in so many has a fraction, it is probably a mistake."""


def read_table(source: SourceParams, forgotten: Forgotten = frozenset()) -> Log:
    """Read every file below source.path. A file without rows is ignored with a warning.

    forgotten: users whose rows add nothing to the catalogue. Raises InputError, naming the file and the next step, if
    the log as a whole cannot be read.
    """
    mapping = mapping_of(source.columns)
    files = files_of(source, mapping)
    read = [read_file(file, mapping, source) for file in files]
    for file, rows in zip(files, read, strict=True):
        if not len(rows.events) + len(rows.rejected):
            log.warning("%s has no rows and is ignored", file.name)
        else:
            log.info("read %s rows of %s, %s rejected", f"{len(rows.events):,}", file.name, f"{len(rows.rejected):,}")
    parsed = pa.concat_tables([rows.events for rows in read])
    num_whole = whole_columns([whole_counts(parsed)])
    parsed = with_whole(parsed, num_whole)
    rejected = pa.concat_tables([rows.rejected for rows in read])
    of_others = parsed.filter(pa.array(~are_forgotten(parsed["user_id"], forgotten))) if forgotten else parsed
    events = parsed.select(EVENTS.names).cast(EVENTS)
    num_empty = sum(not len(rows.events) + len(rows.rejected) for rows in read)
    notes = notes_of(read) | {"num_empty_files": num_empty, "ids_without_decimals": num_whole}
    return Log(events, items_of(of_others), rejected, len(files), notes=notes)


def notes_of(read: Sequence[FileRows]) -> dict[str, Any]:
    """The notes of a log whose files were read whole."""
    words: Counter[str] = Counter()
    for rows in read:
        words.update(rows.num_null_words)
    return reading_notes(words, sum(rows.num_without_zone for rows in read))


def reading_notes(words: Mapping[str, int], num_without_zone: int) -> dict[str, Any]:
    """Figures of the reading for the report; also logged. words: column -> values read as null words."""
    for name, num in sorted(words.items()):
        log.warning("%s values of %s are words for null (source.null_words) and were read as null", f"{num:,}", name)
    if num_without_zone:
        log.info(
            "%s times have no time zone and were read as UTC. Add their offset if they are in another zone",
            f"{num_without_zone:,}",
        )
    return {"null_words": dict(sorted(words.items())), "times_without_zone": num_without_zone}


def mapping_of(columns: ColumnParams) -> dict[str, str]:
    """Our column name -> the file's. Raises InputError if a required column is not mapped."""
    mapping = {ours: theirs for ours, theirs in columns.model_dump().items() if theirs is not None}
    unmapped = [name for name in REQUIRED if name not in mapping]
    if unmapped:
        raise InputError(
            f"source.columns: {', '.join(unmapped)} not mapped. Name the column of your table that holds it, e.g. "
            f'make set ARGS="source.columns.{unmapped[0]}=<column>".'
        )
    return mapping


def files_of(source: SourceParams, mapping: Mapping[str, str]) -> list[DataFile]:
    """The data files of a table, in order. Raises InputError if there are none."""
    found = find_files(source.path, source.format)
    wanted = list(mapping.values())
    headers = {file.name: read_header(file, wanted) for file in found.perhaps}
    is_data = {name: header is not None and set(wanted) <= set(header.names) for name, header in headers.items()}
    files = sorted([*found.files, *(file for file in found.perhaps if is_data[file.name])], key=lambda file: file.path)
    others = sorted([*found.others, *(name for name, is_one in is_data.items() if not is_one)])
    if not files:
        there = f" (but {len(others):,} of other kinds: {named(others)})" if others else ""
        raise InputError(
            f"source.path: the folder {source.path} has no data file{there}. Put .csv or .parquet files in it, or text "
            f"files with a header that names {', '.join(wanted)}, or state their format: {ADVICE}."
        )
    if others:
        log.warning("Ignored %s files that are neither .csv, .tsv nor .parquet: %s", f"{len(others):,}", named(others))
    return files


WholeCounts = Mapping[str, tuple[int, int]]
"""Column -> (ids that were turned into floats, such as "17850.0", ids with a real fraction); only columns with any."""


def whole_counts(events: pa.Table) -> WholeCounts:
    """Count the ids with decimals in each column of ids."""
    counts = {}
    for name in KEYS:
        if pc.any(pc.match_substring(events[name], ".")).as_py():
            num = [pc.sum(pc.match_substring_regex(events[name], each)).as_py() or 0 for each in (WHOLE_ID, FRACTION)]
            counts[name] = (num[0], num[1])
    return counts


def whole_columns(counts: Sequence[WholeCounts]) -> dict[str, int]:
    """The columns whose ids are all whole numbers -> how many of them lose their ".0".

    The rule holds for the whole log: a column in which any id has a real fraction (a version such as 1.5) is unchanged.
    """
    found = {}
    for name in KEYS:
        num, fractions = (sum(each[name][place] for each in counts if name in each) for place in (0, 1))
        if num and not fractions:
            found[name] = num
            log.info("%s values of %s are whole numbers with decimals: 17850.0 is read as 17850", f"{num:,}", name)
        elif fractions * FEW < num:  # not a column of versions such as 1.5
            log.warning(
                "%s values of %s are whole numbers with decimals, beside %s with a fraction, so all stay as they are: "
                "7.0 and 7 are two ids. If those few are mistakes, correct them and run again",
                f"{num:,}",
                name,
                f"{fractions:,}",
            )
    return found


def with_whole(events: pa.Table, names: Collection[str]) -> pa.Table:
    """The events with the ids of these columns written without ".0", as whole numbers of Parquet are."""
    for name in names:
        column = events[name]
        is_whole = pc.match_substring_regex(column, WHOLE_ID)
        kept = pc.if_else(is_whole, pc.replace_substring_regex(column, WHOLE, ""), column)
        events = events.set_column(events.column_names.index(name), name, kept)
    return events
