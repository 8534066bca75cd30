"""A source (simulator, MovieLens, EB-NeRD, any table) -> interactions by time partition, and what belongs to them."""
# pyright: reportAttributeAccessIssue=false

import logging
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from contracts.errors import InputError
from contracts.publish import publish, write_json
from contracts.schema import CONTEXTS, INTERACTIONS, ITEMS, PROVENANCE, REJECTED
from contracts.stage import Report, main
from features.sealed.files import live_of, reading, sealed_files
from features.sealed.forgotten import HEAD, Forgotten, list_lines
from features.sealed.known_logs import check_files, check_list, known_path, read_known, shared
from features.sealed.log_id import identity_of, refuse_other
from features.sealed.owner import noted_in
from features.sources.ebnerd import read_ebnerd
from features.sources.joined import join_repeats
from features.sources.live import Live, read_live, without_logged
from features.sources.log import Log
from features.sources.movielens import read_movielens
from features.sources.negatives import with_negatives
from features.sources.reused import part_reused
from features.sources.simulator import simulate
from features.sources.table import read_table
from features.sources.tombstones import REASON, leave_out
from features.tables.ledger import ITEM_ROWS, ROWS
from features.terms.convention import CLICKED, num_clicks
from features.terms.event_id import event_ids
from features.terms.params import CLICKS_ALONE, SimulatorParams, SourceParams

log = logging.getLogger("leitmotif")

OUTS = ("interactions", "items", "contexts", "truth", "rejected", "provenance", "absorbed")
ABSORBED = "absorbed.json"
"""In absorbed/: {engine: the newest seq that was ever sealed of its live events in live/<source>, 0 without}."""
WHICH = "log.json"
"""In absorbed/: {id: source.id, log: the log's identity}."""
ROW_GROUP = 1 << 18


def run(data: Path, seed: int, simulator: SimulatorParams, source: SourceParams) -> Report:
    """Read the source that source.name says, and the live events sealed beside it, and write both in one form.

    Every row read is written or rejected, those of users on live/<source>/forgotten.txt without their text; rows that
    source.negatives samples count as read. Rows are events; those of a file of items are counted apart. Raises
    InputError where the source or a sealed file cannot be read, live/ is of another log or not what live/known.json
    says, or no event is left.
    """
    forgotten, live = _live(data, source)
    logged = leave_out(_read(source, simulator, seed, forgotten), forgotten)
    logged = replace(logged, events=_identify(logged.events))
    live = without_logged(live, logged.events["event_id"])
    events, left, num_apart = _requests(live.events, source)
    live = replace(live, events=events, rejected=pa.concat_tables([live.rejected, left]))
    read = _with_live(_as_requests(logged, source, seed, num_apart), live)
    if not len(read.events):
        raise InputError(_nothing(source, read))
    _warn_of_clicks_alone(read.events)
    events = _sort(read.events)
    items = _complete(read.items, events)
    _check_embeddings(items)
    with publish(data, *OUTS) as staging:
        partitions = _write_partitions(events, source.partition, staging / "interactions")
        _write(items, ITEMS, staging / "items" / "items.parquet")
        _write(_by(read.contexts, "impression_id"), CONTEXTS, staging / "contexts" / "contexts.parquet")
        for name, table in ((ROWS, read.rejected), (ITEM_ROWS, read.rejected_items)):
            _write(_by(table, "file", "line", "reason"), REJECTED, staging / "rejected" / name)
        _write(events, PROVENANCE, staging / "provenance" / "provenance.parquet")
        for name, table in read.truth.items():
            _write(table, table.schema, staging / "truth" / f"{name}.parquet")
        write_json(staging / "absorbed" / ABSORBED, dict(live.newest_seq))
        write_json(staging / "absorbed" / WHICH, {"id": source.id, "log": identity_of(source)})
    return _report(read, live, events, items, partitions) | dict(read.notes)


def _requests(events: pa.Table, source: SourceParams) -> tuple[pa.Table, pa.Table, int]:
    """One name a request, one row an item in it; the rows left over (REJECTED); how many requests have a new name."""
    parted, late, num_apart = part_reused(events, source.shown_s, source.join_s)
    joined, left = join_repeats(parted, source.join_s)
    return joined, pa.concat_tables([late, left]), num_apart


def _as_requests(logged: Log, source: SourceParams, seed: int, num_apart: int) -> Log:
    """The log in requests, with unclicked rows where source.negatives asks for them. num_apart: of the live events."""
    events, left, num_logged = _requests(logged.events, source)
    num_sampled = 0
    if source.negatives:
        events, num_sampled = with_negatives(events, source.negatives, source.negatives_from, seed)
    notes = {**logged.notes, "requests_named_apart": num_apart + num_logged, "rows_sampled": num_sampled}
    return replace(logged, events=events, rejected=pa.concat_tables([logged.rejected, left]), notes=notes)


def _warn_of_clicks_alone(events: pa.Table) -> None:
    if pc.all(pc.greater_equal(events["label"], CLICKED)).as_py():
        log.warning(
            "every row is a click: nothing can be learnt without rows that were shown and not clicked. %s", CLICKS_ALONE
        )


def _report(read: Log, live: Live, events: pa.Table, items: pa.Table, partitions: list[str]) -> dict[str, Any]:
    return {
        "rows_read": len(events) + len(read.rejected),
        "rows_written": len(events),
        "dropped": _by_reason(read.rejected),
        "items_read": len(read.items) + len(read.rejected_items),
        "items_dropped": _by_reason(read.rejected_items),
        "num_clicks": num_clicks(events["label"]),
        "num_users": pc.count_distinct(events["user_id"]).as_py(),
        "num_items": len(items),
        "num_files": read.num_files,
        "num_live_events": len(live.events),
        "num_partitions": len(partitions),
        "first_event_at": _iso(events["occurred_at"][0].as_py()),
        "last_event_at": _iso(events["occurred_at"][-1].as_py()),
    }


def _by_reason(rejected: pa.Table) -> dict[str, int]:
    return {row["values"]: row["counts"] for row in pc.value_counts(rejected["reason"]).to_pylist()}


def _read(source: SourceParams, simulator: SimulatorParams, seed: int, forgotten: Forgotten) -> Log:
    if source.name == "simulator":
        return simulate(simulator, seed)
    if source.name == "table":
        return read_table(source, forgotten)
    return {"movielens": read_movielens, "ebnerd": read_ebnerd}[source.name](source)


def _live(data: Path, source: SourceParams) -> tuple[Forgotten, Live]:
    """What came live to this log, and who is forgotten. Of another log, or less than is known, nothing is read."""
    folder = live_of(data)
    refuse_other(read_known(folder).log, source, f"What {known_path(folder)} knows of live/{folder.name}/")
    database = folder.with_name(f"{folder.name}.db")
    refuse_other(noted_in(database), source, f"The live events in {database}")
    kept = shared(folder)
    with reading(kept):
        lines = list_lines(kept)
        forgotten = frozenset(line for line in lines if not line.startswith(HEAD))
        live = read_live(kept, forgotten)
        check_list(folder, lines)
        check_files(folder, sealed_files(kept))
    if live.num_files:
        log.info("read %s live events in %s sealed files", f"{len(live.events):,}", f"{live.num_files:,}")
    return forgotten, live


def _with_live(read: Log, live: Live) -> Log:
    """Both as one log. Of a request that both know, the source's context holds."""
    new = pc.invert(pc.is_in(live.contexts["impression_id"], value_set=read.contexts["impression_id"].combine_chunks()))
    return replace(
        read,
        events=pa.concat_tables([read.events, live.events]),
        contexts=pa.concat_tables([read.contexts, live.contexts.filter(new)]),
        rejected=pa.concat_tables([read.rejected, live.rejected]),
        num_files=read.num_files + live.num_files,
    )


def _nothing(source: SourceParams, read: Log) -> str:
    if not len(read.rejected):
        return f"source.path: {source.path} holds no rows. Point source.path at a log with events."
    reasons = _by_reason(read.rejected)
    if set(reasons) == {REASON}:
        return (
            f"source.path: all {len(read.rejected):,} rows in {source.path} are of users on live/{source.id}/"
            "forgotten.txt, and none is left. Point source.path at a log with others."
        )
    unread = read.rejected.filter(pc.not_equal(read.rejected["reason"], REASON))
    first = unread.slice(0, 1).to_pylist()[0]
    return (
        f"source.path: none of the {len(read.rejected):,} rows in {source.path} could be parsed. The first, "
        f"{first['file']} line {first['line']}: {first['reason']}: {first['raw'][:200]!r}. "
        f"Check source.columns and source.time_unit ({source.time_unit})."
    )


def _identify(events: pa.Table) -> pa.Table:
    """Give a name to the events that have none, from what they say: the same event has the same name."""
    missing = pc.is_null(events["event_id"])
    if not pc.any(missing).as_py():
        return events
    named = pc.if_else(missing, pa.chunked_array([event_ids(events)]), events["event_id"])
    return events.set_column(0, "event_id", named)


def _sort(events: pa.Table) -> pa.Table:
    """In order of (occurred_at, event_id); what is left of a tie is broken by everything else."""
    at = events["occurred_at"].to_numpy().astype(np.int64)
    if (np.diff(at) >= 0).all() and _increases(events["event_id"]):
        return events
    return _by(events, "occurred_at", "event_id", *[name for name in events.column_names[1:] if name != "occurred_at"])


def _increases(column: pa.ChunkedArray) -> bool:
    return pc.all(pc.less(column[:-1], column[1:])).as_py() is not False


def _by(table: pa.Table, *keys: str) -> pa.Table:
    return table.sort_by([(key, "ascending") for key in keys])


def _complete(items: pa.Table, events: pa.Table) -> pa.Table:
    """Items in order of item_id, with those that only the events name."""
    named = pc.drop_null(pc.unique(events["item_id"]))
    unknown = pc.filter(named, pc.invert(pc.is_in(named, items["item_id"].combine_chunks())))
    more = pa.table(
        {
            "item_id": unknown,
            "title": pa.nulls(len(unknown), pa.string()),
            "categories": pa.array([[]] * len(unknown), ITEMS.field("categories").type),
            **{name: pa.nulls(len(unknown), ITEMS.field(name).type) for name in ("published_at", "embedding")},
        }
    )
    return _by(pa.concat_tables([items.cast(ITEMS), more.cast(ITEMS)]), "item_id")


def _check_embeddings(items: pa.Table) -> None:
    lengths = pc.value_counts(pc.drop_null(pc.list_value_length(items["embedding"]))).to_pylist()
    if len(lengths) > 1:
        found = ", ".join(f"{entry['counts']:,} of {entry['values']}" for entry in lengths)
        raise InputError(
            f"source.columns.embedding: the items' embeddings differ in length ({found}). Give one length."
        )


def _write_partitions(events: pa.Table, partition: str, folder: Path) -> list[str]:
    """One file a day, month or year that has events; returns their names in order."""
    days = events["occurred_at"].to_numpy().astype(f"datetime64[{partition[0].upper()}]")
    starts = np.flatnonzero(np.r_[True, days[1:] != days[:-1]])
    names = [str(days[start]) for start in starts]
    for name, start, end in zip(names, starts, [*starts[1:], len(days)], strict=True):
        _write(events.slice(start, end - start), INTERACTIONS, folder / f"{name}.parquet")
    log.info("wrote %s interactions in %d partitions", f"{len(events):,}", len(names))
    return names


def _write(table: pa.Table, schema: pa.Schema, path: Path) -> None:
    wanted = table.select(schema.names).combine_chunks().cast(schema)
    pq.write_table(wanted, path, compression="zstd", row_group_size=ROW_GROUP)


def _iso(at: datetime) -> str:
    return at.isoformat().replace("+00:00", "Z")


if __name__ == "__main__":
    main(run)
