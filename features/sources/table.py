"""Delimited text or Parquet, plain or packed, file or folder of files, and a mapping of its columns -> a log."""
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


def read_table(source: SourceParams, forgotten: Forgotten = frozenset()) -> Log:
    """Read every file under source.path. Raises InputError for what stops the whole log, naming file and next step.

    A file without a row is left out with a warning. forgotten: users whose rows say nothing about items.
    """
    mapping = mapping_of(source.columns)
    files = files_of(source, mapping)
    read = [read_file(file, mapping, source) for file in files]
    for file, rows in zip(files, read, strict=True):
        if not len(rows.events) + len(rows.rejected):
            log.warning("%s has no rows: nothing is taken from it", file.name)
        else:
            log.info("read %s rows of %s, %s rejected", f"{len(rows.events):,}", file.name, f"{len(rows.rejected):,}")
    parsed = pa.concat_tables([rows.events for rows in read])
    num_whole = decided([whole_counts(parsed)])
    parsed = with_whole(parsed, num_whole)
    rejected = pa.concat_tables([rows.rejected for rows in read])
    of_others = parsed.filter(pa.array(~are_forgotten(parsed["user_id"], forgotten))) if forgotten else parsed
    events = parsed.select(EVENTS.names).cast(EVENTS)
    num_empty = sum(not len(rows.events) + len(rows.rejected) for rows in read)
    notes = notes_of(read) | {"num_empty_files": num_empty, "ids_without_decimals": num_whole}
    return Log(events, items_of(of_others), rejected, len(files), notes=notes)


def notes_of(read: Sequence[FileRows]) -> dict[str, Any]:
    """Count and log the values that were read as something else than written."""
    words: Counter[str] = Counter()
    for rows in read:
        words.update(rows.num_null_words)
    return told_of(words, sum(rows.num_without_zone for rows in read))


def told_of(words: Mapping[str, int], num_without_zone: int) -> dict[str, Any]:
    """The same, counted."""
    for name, num in sorted(words.items()):
        log.warning("%s values of %s are words for nothing (source.null_words), and are null", f"{num:,}", name)
    if num_without_zone:
        log.info(
            "%s times have no zone: taken as UTC. Write their offset if they are of another", f"{num_without_zone:,}"
        )
    return {"null_words": dict(sorted(words.items())), "times_without_zone": num_without_zone}


def mapping_of(columns: ColumnParams) -> dict[str, str]:
    """Our name -> theirs. Raises InputError where a column that every log has is not mapped."""
    mapping = {ours: theirs for ours, theirs in columns.model_dump().items() if theirs is not None}
    unmapped = [name for name in REQUIRED if name not in mapping]
    if unmapped:
        raise InputError(
            f"source.columns: {', '.join(unmapped)} not mapped. Name the column of your table that holds it, e.g. "
            f'make set ARGS="source.columns.{unmapped[0]}=<column>".'
        )
    return mapping


def files_of(source: SourceParams, mapping: Mapping[str, str]) -> list[DataFile]:
    """Raises InputError if no file holds data."""
    found = find_files(source.path, source.format)
    wanted = list(mapping.values())
    headers = {file.name: read_header(file, wanted) for file in found.perhaps}
    is_data = {name: header is not None and set(wanted) <= set(header.names) for name, header in headers.items()}
    files = sorted([*found.files, *(file for file in found.perhaps if is_data[file.name])], key=lambda file: file.path)
    others = sorted([*found.others, *(name for name, is_one in is_data.items() if not is_one)])
    if not files:
        there = f" (but {len(others):,} of other kinds: {named(others)})" if others else ""
        raise InputError(
            f"source.path: the folder {source.path} holds no data file{there}. Put .csv or .parquet files in it, texts "
            f"with a header that names {', '.join(wanted)}, or say what they are: {ADVICE}."
        )
    if others:
        log.warning("left out %s files that are neither .csv, .tsv nor .parquet: %s", f"{len(others):,}", named(others))
    return files


WholeCounts = Mapping[str, tuple[int, int]]
"""Column -> its ids that a null turned into floats ("17850.0"), and those with a true fraction; where there are any."""


def whole_counts(events: pa.Table) -> WholeCounts:
    """What some rows say of each column of ids."""
    counts = {}
    for name in KEYS:
        if pc.any(pc.match_substring(events[name], ".")).as_py():
            num = [pc.sum(pc.match_substring_regex(events[name], each)).as_py() or 0 for each in (WHOLE_ID, FRACTION)]
            counts[name] = (num[0], num[1])
    return counts


def decided(counts: Sequence[WholeCounts]) -> dict[str, int]:
    """The columns whose ids are whole numbers, however they are written, and how many are to be written without ".0".

    One rule for the whole log: a column in which an id has a true fraction (a version, 1.5) is left as it is.
    """
    found = {}
    for name in KEYS:
        num, fractions = (sum(each[name][place] for each in counts if name in each) for place in (0, 1))
        if num and not fractions:
            found[name] = num
            log.info("%s values of %s are whole numbers with a decimal point: 17850.0 is 17850", f"{num:,}", name)
    return found


def with_whole(events: pa.Table, names: Collection[str]) -> pa.Table:
    """The ids of these columns as Parquet's whole numbers are read: 17850."""
    for name in names:
        column = events[name]
        is_whole = pc.match_substring_regex(column, WHOLE_ID)
        kept = pc.if_else(is_whole, pc.replace_substring_regex(column, WHOLE, ""), column)
        events = events.set_column(events.column_names.index(name), name, kept)
    return events
