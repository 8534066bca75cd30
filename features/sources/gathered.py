"""A source, and the live events sealed beside it -> their events as pieces, with items, contexts and rejected rows."""
# pyright: reportAttributeAccessIssue=false

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from contracts.schema import CONTEXTS, REJECTED
from features.engine.engine import Engine
from features.sealed.forgotten import Forgotten
from features.sources.about import as_items, merged
from features.sources.arrivals import read_files
from features.sources.ebnerd import read_ebnerd
from features.sources.joined import join_repeats, say
from features.sources.live import Live, without_logged
from features.sources.log import Log
from features.sources.movielens import read_movielens
from features.sources.negatives import with_negatives
from features.sources.pieces import Piece, PieceWriter, blocks_of, identified
from features.sources.reused import split_reused
from features.sources.simulator import simulate
from features.sources.table import read_table
from features.sources.tombstones import leave_out
from features.tables.cache import PartitionCache
from features.terms.params import SimulatorParams, SourceParams


@dataclass(frozen=True)
class Gathered:
    """A Log whose events are in pieces."""

    pieces: Sequence[Piece]
    items: pa.Table  # ITEMS, as in a Log
    num_files: int
    cache_keys: frozenset[str] = frozenset()  # of the entries that a later run may need
    rejected: pa.Table = field(default_factory=REJECTED.empty_table)  # in addition to the rejected rows of the pieces
    contexts: pa.Table = field(default_factory=CONTEXTS.empty_table)
    rejected_items: pa.Table = field(default_factory=REJECTED.empty_table)
    truth: Mapping[str, pa.Table] = field(default_factory=dict)
    notes: Mapping[str, Any] = field(default_factory=dict)
    num_renamed: int = 0  # requests that got a new impression_id (reused.py)
    num_sampled: int = 0

    def all_rejected(self) -> pa.Table:
        """REJECTED: all rejected rows, those of the pieces first."""
        return pa.concat_tables([*(piece.rejected for piece in self.pieces), self.rejected])


def gather(
    source: SourceParams,
    simulator: SimulatorParams,
    seed: int,
    forgotten: Forgotten,
    cache: PartitionCache,
    scratch: Path,
    engine: Engine,
) -> Gathered:
    """Read a source. Tables without sampled negatives are read file by file through the cache, all others whole."""
    if source.name == "table" and not source.negatives:
        table = read_files(cache, source, forgotten, engine)
        items = as_items(merged([piece.facts for piece in table.pieces]))
        return Gathered(table.pieces, items, table.num_files, table.cache_keys, notes=table.notes)
    logged = leave_out(_read(source, simulator, seed, forgotten), forgotten)
    num_renamed = num_sampled = 0
    if source.negatives:
        events, rejected, num_renamed = requests_of(identified(logged.events), source)
        events, num_sampled = with_negatives(events, source.negatives, source.negatives_from, seed)
        logged = replace(logged, events=events, rejected=pa.concat_tables([logged.rejected, rejected]))
    piece = piece_of(logged.events, source, scratch / "logged", is_settled=bool(source.negatives))
    others = {name: getattr(logged, name) for name in ("rejected", "contexts", "rejected_items", "truth", "notes")}
    return Gathered([piece], logged.items, logged.num_files, **others, num_renamed=num_renamed, num_sampled=num_sampled)


def beside(live: Live, gathered: Gathered, source: SourceParams) -> tuple[Live, int]:
    """(live events that the log does not have, joined into requests; how many requests got a new impression_id)."""
    if len(live.events):
        wanted = live.events["event_id"].combine_chunks()
        known = [
            batch["event_id"].filter(pc.is_in(batch["event_id"], value_set=wanted))
            for piece in gathered.pieces
            for batch in piece.events(columns=["event_id"])
        ]
        live = without_logged(live, pa.chunked_array(known, pa.string()))
    events, rejected, num_renamed = requests_of(live.events, source)
    return replace(live, events=events, rejected=pa.concat_tables([live.rejected, rejected])), num_renamed


def requests_of(events: pa.Table, source: SourceParams) -> tuple[pa.Table, pa.Table, int]:
    """(events with one row per item of a request, REJECTED rows, number of requests that got a new impression_id)."""
    renamed, late, num_renamed = split_reused(events, source.shown_s, source.join_s)
    joined, repeats = join_repeats(renamed, source.join_s)
    say(num_renamed, len(repeats))
    return joined, pa.concat_tables([late, repeats]), num_renamed


def piece_of(events: pa.Table, source: SourceParams, folder: Path, is_settled: bool) -> Piece:
    """Write events in memory as a piece. is_settled: no other row of the log changes any of them."""
    writer = PieceWriter(folder, source.partition[0].upper())
    for block in blocks_of(events):
        writer.add(block, is_settled=is_settled)
    writer.close()
    return Piece(folder)


def _read(source: SourceParams, simulator: SimulatorParams, seed: int, forgotten: Forgotten) -> Log:
    if source.name == "simulator":
        return simulate(simulator, seed)
    if source.name == "table":
        return read_table(source, forgotten)
    return {"movielens": read_movielens, "ebnerd": read_ebnerd}[source.name](source)
