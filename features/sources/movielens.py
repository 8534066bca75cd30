"""A MovieLens folder as published (ratings.csv, movies.csv) -> a log; a rating of source.label_threshold is a click."""
# pyright: reportAttributeAccessIssue=false

import logging
from pathlib import Path

import numpy as np
import pyarrow as pa

from contracts.errors import InputError
from contracts.schema import ITEMS, REJECTED, TIME
from features.sources.delimited import WRONG_FIELDS, Header, read_delimited, read_header, read_raw
from features.sources.files import DataFile, describe
from features.sources.log import EVENTS, Log
from features.sources.rows import cut, read_file
from features.sources.table import notes_of
from features.terms.params import SourceParams

log = logging.getLogger("leitmotif")

RATINGS = {"user_id": "userId", "item_id": "movieId", "label": "rating", "occurred_at": "timestamp"}
MOVIES = ("movieId", "title", "genres")
REPEATED = "movie repeated"
NO_GENRES = "(no genres listed)"


def read_movielens(source: SourceParams) -> Log:
    """Read both files. Movies without ratings are items too; of a repeated movie the first row counts.

    Raises InputError if a file is missing or lacks a column.
    """
    ratings_file, movies_file = (_find(source.path, name) for name in ("ratings.csv", "movies.csv"))
    _check(ratings_file, tuple(RATINGS.values()))
    header = _check(movies_file, MOVIES)
    ratings = read_file(ratings_file, RATINGS, source.model_copy(update={"time_unit": "s"}))
    items, bad_movies = _read_movies(movies_file, header)
    log.info("read %s ratings and %s movies", f"{len(ratings.events):,}", f"{len(items):,}")
    events = ratings.events.select(EVENTS.names).cast(EVENTS)
    notes = notes_of([ratings])
    return Log(events, items, ratings.rejected, num_files=2, rejected_items=bad_movies, notes=notes)


def _find(folder: str | None, name: str) -> DataFile:
    if not folder:
        raise InputError("source.path is not set. Name MovieLens' folder: make run SOURCE=movielens DATA=<folder>.")
    path = Path(folder).expanduser() / name
    if not path.is_file():
        raise InputError(
            f"source.path: {path} does not exist (seen from {Path.cwd()}). Name a folder of MovieLens with ratings.csv "
            "and movies.csv (the editions latest, latest-small, 20M, 25M and 32M have them)."
        )
    return describe(path, name)


def _check(file: DataFile, wanted: tuple[str, ...]) -> Header:
    header = read_header(file, wanted)
    names = header.names if header else []
    missing = [name for name in wanted if name not in names]
    if missing:
        raise InputError(
            f"source.path: {file.name} has no column {', '.join(missing)}. It has: {', '.join(names) or 'nothing'}. "
            "For another layout use source.name: table."
        )
    assert header is not None
    return header


def _read_movies(file: DataFile, header: Header) -> tuple[pa.Table, pa.Table]:
    """(the catalogue (ITEMS), rows that are malformed or repeat a movie (REJECTED))."""
    rows = read_delimited(file, header, MOVIES)
    _, first = np.unique(np.array(rows.columns["movieId"].to_pylist(), object), return_index=True)
    again = np.delete(np.arange(len(rows.line)), first)
    texts = read_raw(file, rows.header, rows.start[again], rows.end[again])
    movies = rows.columns.take(pa.array(first))
    genres = movies["genres"].to_pylist()
    items = pa.table(
        {
            "item_id": movies["movieId"],
            "title": movies["title"],
            "categories": [[] if text in ("", NO_GENRES) else text.split("|") for text in genres],
            "published_at": pa.nulls(len(movies), TIME),
            "embedding": pa.nulls(len(movies), ITEMS.field("embedding").type),
        },
        schema=ITEMS,
    )
    rejected = pa.table(
        {
            "file": [file.name] * (len(rows.bad) + len(again)),
            "line": [*(row.line for row in rows.bad), *rows.line[again].tolist()],
            "reason": [WRONG_FIELDS] * len(rows.bad) + [REPEATED] * len(again),
            "raw": [cut(text) for text in (*(row.raw for row in rows.bad), *texts)],
        },
        schema=REJECTED,
    )
    return items, rejected
