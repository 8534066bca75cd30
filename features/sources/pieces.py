"""Events of a source, block by block -> a piece on disk: record batches by block and time partition. Memory: one block.

A piece is a folder:
events.arrow      EVENTS, each with its event_id; a record batch has the rows of one partition in one block
keys.arrow        for the same rows: the key of the request, the key of the item in the request, and the time
batches.parquet   for each batch: its partition and number of rows
about.parquet     FACTS of the items
rejected.parquet  REJECTED
requests.arrow    runs of the keys of requests, each with its first and last time in a block (features/tables/runs.py)
items.arrow       runs of the keys of items in requests
notes.json        figures of the reading, for the report
"""
# pyright: reportAttributeAccessIssue=false

import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from contracts.publish import write_json
from contracts.schema import REJECTED, ROLE_IMPRESSION
from features.sources.about import ABOUT_ITEMS, facts_of, facts_of_items, merged
from features.sources.log import EVENTS
from features.tables.connection import connect
from features.tables.runs import Keys, RunWriter, extremes
from features.terms.event_id import event_ids

TABLES = ("events.arrow", "keys.arrow", "requests.arrow", "items.arrow", "batches", "about", "rejected", "notes.json")
BLOCK_ROWS = 1 << 18
MOST_FACTS = 8
"""How many blocks' facts are merged at once."""
KEYS = pa.schema([("request_key", pa.uint64()), ("item_key", pa.uint64()), ("us", pa.int64())])
"""A key is 0 if the row has no request, or cannot repeat an item of its request."""
_KEYS = f"""
    SELECT CASE WHEN role = '{ROLE_IMPRESSION}' AND impression_id IS NOT NULL AND user_id IS NOT NULL
            THEN hash(impression_id, user_id) ELSE 0 END AS request_key,
        CASE WHEN role = '{ROLE_IMPRESSION}' AND label IS NOT NULL AND NOT isnan(label) AND impression_id IS NOT NULL
            AND user_id IS NOT NULL AND item_id IS NOT NULL
            THEN hash(impression_id, user_id, item_id) ELSE 0 END AS item_key, us
    FROM events
"""


class PieceWriter:
    """Writes the folder of a piece."""

    def __init__(self, folder: Path, unit: str) -> None:
        """unit: D, M or Y, the length of a time partition."""
        self._folder, self._unit = folder, unit
        folder.mkdir(parents=True, exist_ok=True)
        self._open = ExitStack()
        packed = pa.ipc.IpcWriteOptions(compression="lz4")
        self._events = self._open.enter_context(pa.ipc.new_file(str(folder / "events.arrow"), EVENTS, options=packed))
        self._keys = self._open.enter_context(pa.ipc.new_file(str(folder / "keys.arrow"), KEYS))
        self._requests, self._items = (
            RunWriter(folder / "requests.arrow", pa.int64()),
            RunWriter(folder / "items.arrow"),
        )
        self._open.callback(self._requests.close)
        self._open.callback(self._items.close)
        self._rejected = self._open.enter_context(pq.ParquetWriter(folder / "rejected.parquet", REJECTED))
        self._names: list[str] = []
        self._sizes: list[int] = []
        self._facts: list[pa.Table] = []
        self._num_rejected = 0

    def add(self, events: pa.Table, rejected: pa.Table | None = None, is_settled: bool = False) -> None:
        """Add a block. events: EVENTS, and ABOUT_ITEMS if the source has attributes of items.

        is_settled: no other row changes any of these (settled.py), so they need no keys.
        """
        if rejected is not None and len(rejected):
            self._rejected.write_table(rejected)
            self._num_rejected += len(rejected)
        if not len(events):
            return
        has_facts = all(name in events.column_names for name in ABOUT_ITEMS)
        self._facts.append(facts_of(events) if has_facts else facts_of_items(events["item_id"]))
        if len(self._facts) >= MOST_FACTS:
            self._facts = [merged(self._facts)]
        named = identified(events.select(EVENTS.names).cast(EVENTS))
        keys = _keys(named, is_settled)
        self._add_runs(keys)
        days = named["occurred_at"].to_numpy().astype(f"datetime64[{self._unit}]")
        if (days[1:] < days[:-1]).any():
            order = pa.array(np.argsort(days, kind="stable"))
            named, keys, days = named.take(order), keys.take(order), days[order.to_numpy()]
        starts = np.flatnonzero(np.r_[True, days[1:] != days[:-1]])
        for start, end in zip(starts.tolist(), [*starts[1:].tolist(), len(days)], strict=True):
            self._events.write_table(named.slice(start, end - start).combine_chunks())
            self._keys.write_table(keys.slice(start, end - start).combine_chunks())
            self._names.append(str(days[start]))
            self._sizes.append(end - start)

    def _add_runs(self, keys: pa.Table) -> None:
        request, item, us = (keys[name].to_numpy() for name in KEYS.names)
        self._items.add(np.sort(item[item != 0]))
        has_request = request != 0
        self._requests.add(*extremes(request[has_request], us[has_request], us[has_request]))

    def close(self, notes: Mapping[str, Any] | None = None) -> dict[str, int]:
        """Finish the files and write those known only at the end; returns the number of rows of each table."""
        self._open.close()
        batches = pa.table(
            {"partition": pa.array(self._names, pa.string()), "num_rows": pa.array(self._sizes, pa.int64())}
        )
        pq.write_table(batches, self._folder / "batches.parquet")
        facts = merged(self._facts)
        pq.write_table(facts, self._folder / "about.parquet", compression="zstd")
        write_json(self._folder / "notes.json", dict(notes or {}))
        num = (*[sum(self._sizes)] * 2, 0, 0, len(batches), len(facts), self._num_rejected, 0)
        return dict(zip(TABLES, num, strict=True))


class Piece:
    """Reads a piece."""

    def __init__(self, folder: Path, key: str = "") -> None:
        """key: of the piece in the cache; empty if it is not cached."""
        self.key, self.folder = key, folder
        batches = pq.read_table(folder / "batches.parquet")
        self._partitions: list[str] = batches["partition"].to_pylist()
        self._sizes: list[int] = batches["num_rows"].to_pylist()
        self._places_of: dict[str, list[int]] = {}
        for place, name in enumerate(self._partitions):
            self._places_of.setdefault(name, []).append(place)
        self.num_rows = sum(self._sizes)
        self.notes: dict[str, Any] = json.loads((folder / "notes.json").read_text(encoding="utf-8"))

    @property
    def requests(self) -> Path:
        """The file of runs of request keys, with their first and last times."""
        return self.folder / "requests.arrow"

    @property
    def items(self) -> Path:
        """The file of runs of keys of items in requests."""
        return self.folder / "items.arrow"

    @property
    def partitions(self) -> set[str]:
        """The partitions that have a row in the piece."""
        return set(self._places_of)

    def num_of(self, partition: str) -> int:
        """The number of rows of a partition."""
        return sum(self._sizes[place] for place in self._places(partition))

    @property
    def rejected(self) -> pa.Table:
        """REJECTED."""
        return pq.read_table(self.folder / "rejected.parquet", schema=REJECTED)

    @property
    def facts(self) -> pa.Table:
        """FACTS of its items."""
        return pq.read_table(self.folder / "about.parquet")

    def events(self, partition: str | None = None, columns: list[str] | None = None) -> Iterator[pa.RecordBatch]:
        """EVENTS of one partition or of all, batch by batch."""
        yield from _batches(self.folder / "events.arrow", self._places(partition), columns)

    def with_keys(self, partition: str | None = None) -> Iterator[tuple[str, pa.RecordBatch, Keys, Keys]]:
        """As `events`: (partition, EVENTS, request_key of each row, item_key of each row), batch by batch."""
        places = self._places(partition)
        both = zip(
            (self._partitions[place] for place in places),
            _batches(self.folder / "events.arrow", places),
            _batches(self.folder / "keys.arrow", places),
            strict=True,
        )
        for name, events, keys in both:
            yield name, events, keys["request_key"].to_numpy(), keys["item_key"].to_numpy()

    def _places(self, partition: str | None) -> list[int]:
        return list(range(len(self._partitions))) if partition is None else self._places_of.get(partition, [])


def identified(events: pa.Table) -> pa.Table:
    """Give each event without an event_id one derived from its content, so that equal events have equal ids."""
    missing = pc.is_null(events["event_id"])
    if not pc.any(missing).as_py():
        return events
    named = pc.if_else(missing, pa.chunked_array([event_ids(events)]), events["event_id"])
    return events.set_column(0, EVENTS.field("event_id"), named)


def blocks_of(events: pa.Table) -> Iterator[pa.Table]:
    """A table in memory as blocks of at most BLOCK_ROWS rows."""
    yield from (events.slice(start, BLOCK_ROWS) for start in range(0, len(events), BLOCK_ROWS))


def _keys(events: pa.Table, is_settled: bool) -> pa.Table:
    us = events["occurred_at"].cast(pa.int64())
    if is_settled or events["impression_id"].null_count == len(events):
        none = pa.array(np.zeros(len(events), np.uint64))
        return pa.table([none, none, us], schema=KEYS)
    needed = ["role", "impression_id", "user_id", "item_id", "label"]
    with connect() as connection:
        connection.register("events", events.select(needed).append_column("us", us))
        return connection.sql(_KEYS).to_arrow_table().cast(KEYS)


def _batches(path: Path, places: list[int], columns: list[str] | None = None) -> Iterator[pa.RecordBatch]:
    with pa.OSFile(str(path)) as handle:
        reader = pa.ipc.open_file(handle)
        if columns:
            fields = [reader.schema.get_field_index(name) for name in columns]
            reader = pa.ipc.open_file(handle, options=pa.ipc.IpcReadOptions(included_fields=fields))
        for place in places:
            yield reader.get_batch(place)
