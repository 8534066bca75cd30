"""A source, and the live events sealed beside it -> their pieces, and what belongs to them."""
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
from features.sources.arrivals import arrive
from features.sources.ebnerd import read_ebnerd
from features.sources.joined import join_repeats
from features.sources.live import Live, without_logged
from features.sources.log import Log
from features.sources.movielens import read_movielens
from features.sources.negatives import with_negatives
from features.sources.pieces import Piece, PieceWriter, blocks_of, identified
from features.sources.reused import part_reused
from features.sources.simulator import simulate
from features.sources.table import read_table
from features.sources.tombstones import leave_out
from features.tables.cache import PartitionCache
from features.terms.params import SimulatorParams, SourceParams


@dataclass(frozen=True)
class Gathered:
    """A log in pieces."""

    pieces: Sequence[Piece]
    items: pa.Table  # ITEMS, as Log has it
    num_files: int
    kept: frozenset[str] = frozenset()  # keys of the cache that a later run may need
    rejected: pa.Table = field(default_factory=REJECTED.empty_table)  # beside that of the pieces
    contexts: pa.Table = field(default_factory=CONTEXTS.empty_table)
    rejected_items: pa.Table = field(default_factory=REJECTED.empty_table)
    truth: Mapping[str, pa.Table] = field(default_factory=dict)
    notes: Mapping[str, Any] = field(default_factory=dict)
    num_apart: int = 0  # requests that got a name of their own so far
    num_sampled: int = 0

    def all_rejected(self) -> pa.Table:
        """REJECTED, in the order of the pieces."""
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
    """Read a source: a table file by file through the cache, every other whole, and one with sampled negatives too."""
    if source.name == "table" and not source.negatives:
        arrived = arrive(cache, source, forgotten, engine)
        items = as_items(merged([piece.facts for piece in arrived.pieces]))
        return Gathered(arrived.pieces, items, arrived.num_files, arrived.kept, notes=arrived.notes)
    logged = leave_out(_read(source, simulator, seed, forgotten), forgotten)
    num_apart = num_sampled = 0
    if source.negatives:
        events, left, num_apart = requests_of(identified(logged.events), source)
        events, num_sampled = with_negatives(events, source.negatives, source.negatives_from, seed)
        logged = replace(logged, events=events, rejected=pa.concat_tables([logged.rejected, left]))
    piece = piece_of(logged.events, source, scratch / "logged", is_settled=bool(source.negatives))
    others = {name: getattr(logged, name) for name in ("rejected", "contexts", "rejected_items", "truth", "notes")}
    return Gathered([piece], logged.items, logged.num_files, **others, num_apart=num_apart, num_sampled=num_sampled)


def beside(live: Live, gathered: Gathered, source: SourceParams) -> tuple[Live, int]:
    """The live events that the log does not have, in requests; how many of these have a new name."""
    if len(live.events):
        wanted = live.events["event_id"].combine_chunks()
        known = [
            batch["event_id"].filter(pc.is_in(batch["event_id"], value_set=wanted))
            for piece in gathered.pieces
            for batch in piece.events(columns=["event_id"])
        ]
        live = without_logged(live, pa.chunked_array(known, pa.string()))
    events, left, num_apart = requests_of(live.events, source)
    return replace(live, events=events, rejected=pa.concat_tables([live.rejected, left])), num_apart


def requests_of(events: pa.Table, source: SourceParams) -> tuple[pa.Table, pa.Table, int]:
    """One name a request, one row an item in it; the rows left over (REJECTED); how many requests have a new name."""
    parted, late, num_apart = part_reused(events, source.shown_s, source.join_s)
    joined, left = join_repeats(parted, source.join_s)
    return joined, pa.concat_tables([late, left]), num_apart


def piece_of(events: pa.Table, source: SourceParams, folder: Path, is_settled: bool) -> Piece:
    """Events in memory as a piece. is_settled: other rows of the log change none of them."""
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
