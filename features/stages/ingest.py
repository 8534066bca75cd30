"""A source (simulator, MovieLens, EB-NeRD, any table) -> interactions by time partition, items, contexts, rejected."""
# pyright: reportAttributeAccessIssue=false

import logging
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from contracts.errors import InputError
from contracts.known_hashes import hash_of
from contracts.publish import publish, room_for, write_json
from contracts.schema import CONTEXTS, ITEMS, REJECTED
from contracts.stage import Report, main
from features.engine.engine import HERE, Engine, running
from features.sealed.files import live_of, reading, sealed_files
from features.sealed.forgotten import HEAD, Forgotten, list_lines
from features.sealed.known_logs import check_files, check_list, known_path, read_known, shared
from features.sealed.log_id import identity_of, refuse_other
from features.sealed.owner import noted_in
from features.sources.about import as_items, facts_of_items
from features.sources.arrivals import code
from features.sources.gathered import Gathered, beside, gather, piece_of
from features.sources.live import Live, read_live
from features.sources.pieces import Piece
from features.sources.settled import settle
from features.sources.tombstones import REASON
from features.sources.written import ROW_GROUP, Pieces, write_partitions
from features.tables.cache import PartitionCache, key_of
from features.tables.connection import connect, opened
from features.tables.ledger import ITEM_ROWS, ROWS
from features.terms.convention import CLICKED
from features.terms.params import CLICKS_ALONE, EngineParams, SimulatorParams, SourceParams

log = logging.getLogger("leitmotif")

OUTS = ("interactions", "items", "contexts", "truth", "rejected", "provenance", "absorbed")
ABSORBED = "absorbed.json"
"""In absorbed/: {engine: the newest sequence number ever sealed of its live events in live/<source>, 0 if none}."""
WHICH = "log.json"
"""In absorbed/: {id: source.id, log: the log's identity}."""


def run(data: Path, seed: int, simulator: SimulatorParams, source: SourceParams, engine: EngineParams = HERE) -> Report:
    """Read the source named by source.name and the live events sealed beside it, and write both in one format.

    Every row read is written or rejected; rows of users on live/<source>/forgotten.txt are rejected without their text.
    Rows sampled by source.negatives count as read; rows of files of items are counted separately. A table's files that
    have not changed are not read again, nor are its unchanged partitions sorted again. Raises InputError if the source
    or a sealed file cannot be read, live/ belongs to another log or differs from live/known.json, or no event is left.
    engine: reads a table's files and sorts its partitions; other sources are read in this process.
    """
    forgotten, live = _live(data, source)
    folder = data.parent.parent / ".cache" / "ingest" / data.name
    with (
        room_for(folder),
        PartitionCache.open(folder) as cache,
        running(engine, folder) as runner,
        cache.scratch() as scratch,
        opened(scratch / "spilt"),
    ):
        read = gather(source, simulator, seed, forgotten, cache, scratch, runner)
        report, keys = _make(data, source, read, live, cache, scratch, runner)
        cache.keep_only({*keys, *read.cache_keys})
    return report


def _make(
    data: Path,
    source: SourceParams,
    read: Gathered,
    live: Live,
    cache: PartitionCache,
    scratch: Path,
    engine: Engine,
) -> tuple[dict[str, Any], set[str]]:
    """Write the outs; returns the report, and the keys of the cache that they use."""
    newest_seq = dict(live.newest_seq)
    live, num_renamed = beside(live, read, source)
    live_piece = piece_of(live.events, source, scratch / "live", is_settled=True)
    rejected = read.all_rejected()
    if not live_piece.num_rows + sum(piece.num_rows for piece in read.pieces):
        raise InputError(_nothing(source, pa.concat_tables([rejected, live.rejected])))
    items = _complete(read, live_piece)
    _check_embeddings(items)
    with publish(data, *OUTS) as staging:
        settled = settle(read.pieces, source, cache, scratch)
        rejected = pa.concat_tables([rejected, settled.rejected, live.rejected])
        keys = write_partitions(Pieces(read.pieces, settled, live_piece), cache, staging, engine) | settled.keys
        contexts = pa.concat_tables([read.contexts, _of_others(live.contexts, read.contexts)])
        _write(items, ITEMS, staging / "items" / "items.parquet")
        _write(_by(contexts, "impression_id"), CONTEXTS, staging / "contexts" / "contexts.parquet")
        for name, table in ((ROWS, rejected), (ITEM_ROWS, read.rejected_items)):
            _write(_by(table, "file", "line", "reason"), REJECTED, staging / "rejected" / name)
        for name, table in read.truth.items():
            _write(table, table.schema, staging / "truth" / f"{name}.parquet")
        write_json(staging / "absorbed" / ABSORBED, newest_seq)
        write_json(staging / "absorbed" / WHICH, {"id": source.id, "log": identity_of(source)})
        counted, key = _count(staging / "interactions", cache)
    num_renamed += read.num_renamed + settled.num_renamed
    totals = {
        "rows_read": counted["rows_written"] + len(rejected),
        "dropped": _by_reason(rejected),
        "items_read": len(read.items) + len(read.rejected_items),
        "items_dropped": _by_reason(read.rejected_items),
        "num_items": len(items),
        "num_files": read.num_files + live.num_files,
        "num_live_events": len(live.events),
        "requests_named_apart": num_renamed,
        "rows_sampled": read.num_sampled,
    }
    return {**counted, **totals, **read.notes}, {*keys, key}


def _count(interactions: Path, cache: PartitionCache) -> tuple[dict[str, Any], str]:
    """Counts of all partitions, by DuckDB unless they are known, and their key in the cache."""
    files = sorted(interactions.iterdir())
    key = key_of(code(), "count", [hash_of(file) for file in files])
    if (counts := cache.noted(key)) is None:
        cache.note(key, counts := _counted([str(file) for file in files]))
    if counts["num_clicks"] + counts.pop("num_unlabelled") == counts["rows_written"]:
        log.warning(
            "Every row is a click: nothing can be learnt without rows that were shown and not clicked. %s", CLICKS_ALONE
        )
    return counts | {"num_partitions": len(files)}, key


def _counted(files: Sequence[str]) -> dict[str, Any]:
    is_click = f"coalesce(label >= {CLICKED} AND NOT isnan(label), false)"
    with connect() as connection:
        (found,) = connection.sql(f"""
            SELECT count(*), count(*) FILTER ({is_click}), count(DISTINCT user_id),
                epoch_us(min(occurred_at)), epoch_us(max(occurred_at)), count(*) FILTER (label IS NULL)
            FROM read_parquet({files})
        """).fetchall()
    rows, clicks, users, first, last, unlabelled = found
    counts = {"rows_written": rows, "num_clicks": clicks, "num_users": users, "num_unlabelled": unlabelled}
    return counts | {"first_event_at": _iso(first), "last_event_at": _iso(last)}


def _by_reason(rejected: pa.Table) -> dict[str, int]:
    return {row["values"]: row["counts"] for row in pc.value_counts(rejected["reason"]).to_pylist()}


def _live(data: Path, source: SourceParams) -> tuple[Forgotten, Live]:
    """(forgotten users, live events of this log). Raises InputError if live/ is of another log or lacks known files."""
    folder = live_of(data)
    refuse_other(read_known(folder).log, source, f"What {known_path(folder)} knows of live/{folder.name}/")
    database = folder.with_name(f"{folder.name}.db")
    refuse_other(noted_in(database), source, f"The live events in {database}")
    sealed = shared(folder)
    with reading(sealed):
        lines = list_lines(sealed)
        forgotten = frozenset(line for line in lines if not line.startswith(HEAD))
        live = read_live(sealed, forgotten)
        check_list(folder, lines)
        check_files(folder, sealed_files(sealed))
    if live.num_files:
        log.info("read %s live events in %s sealed files", f"{len(live.events):,}", f"{live.num_files:,}")
    return forgotten, live


HINTS = {
    "bad time": "Times are numbers of source.time_unit (s, ms or us), or texts like 2024-01-31T18:00:00Z (iso); check "
    "source.columns.occurred_at.",
    "bad label": "A label is a number (1 a click, 0 none, or a rating with source.label_threshold); check "
    "source.columns.label.",
}
"""What to check where every row has the same fault."""


def _nothing(source: SourceParams, rejected: pa.Table) -> str:
    if not len(rejected):
        return f"source.path: {source.path} has no rows. Set source.path to a log with events."
    reasons = _by_reason(rejected)
    if set(reasons) == {REASON}:
        return (
            f"source.path: all {len(rejected):,} rows in {source.path} are of users on live/{source.id}/"
            "forgotten.txt, and none is left. Set source.path to a log with other users."
        )
    unread = rejected.filter(pc.not_equal(rejected["reason"], REASON))
    first = unread.slice(0, 1).to_pylist()[0]
    return (
        f"source.path: none of the {len(rejected):,} rows in {source.path} could be parsed. The first, "
        f"{first['file']} line {first['line']}: {first['reason']}: {first['raw'][:200]!r}. "
        f"{HINTS.get(first['reason'], 'Check source.columns.')} (source.time_unit is {source.time_unit}.)"
    )


def _complete(read: Gathered, live: Piece) -> pa.Table:
    """The catalogue in order of item_id, including items that only events name."""
    named = pc.unique(pa.concat_tables([piece.facts for piece in (*read.pieces, live)])["item_id"])
    unknown = pc.filter(named, pc.invert(pc.is_in(named, read.items["item_id"].combine_chunks())))
    more = as_items(facts_of_items(unknown))
    return _by(pa.concat_tables([read.items.cast(ITEMS), more]), "item_id")


def _by(table: pa.Table, *keys: str) -> pa.Table:
    return table.sort_by([(key, "ascending") for key in keys])


def _of_others(contexts: pa.Table, known: pa.Table) -> pa.Table:
    """Live contexts of requests that the source has no context for; otherwise the source's is used."""
    return contexts.filter(
        pc.invert(pc.is_in(contexts["impression_id"], value_set=known["impression_id"].combine_chunks()))
    )


def _check_embeddings(items: pa.Table) -> None:
    lengths = pc.value_counts(pc.drop_null(pc.list_value_length(items["embedding"]))).to_pylist()
    if len(lengths) > 1:
        found = ", ".join(f"{entry['counts']:,} of {entry['values']}" for entry in lengths)
        raise InputError(
            f"source.columns.embedding: the items' embeddings differ in length ({found}). Give one length."
        )


def _write(table: pa.Table, schema: pa.Schema, path: Path) -> None:
    wanted = table.select(schema.names).combine_chunks().cast(schema)
    pq.write_table(wanted, path, compression="zstd", row_group_size=ROW_GROUP)


def _iso(at_us: int) -> str:
    at = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=at_us)
    return at.isoformat().replace("+00:00", "Z")


if __name__ == "__main__":
    main(run)
