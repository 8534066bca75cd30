"""A log of clicks without the other items that were shown -> the same log with sampled negatives (unclicked items).

From here on a sampled row is treated like any row of the log: it is counted as a show, trained on and replayed.
"""
# pyright: reportAttributeAccessIssue=false

import hashlib
import logging

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from contracts.schema import ROLE_IMPRESSION
from features.sources.log import EVENTS
from features.terms.convention import CLICKED
from features.terms.event_id import event_ids

log = logging.getLogger("leitmotif")

UNIFORM = "uniform"
PREFIX = "sampled-"
FILE = "sampled beside "
ROUNDS = 16
"""How often a draw is repeated if the request already has the item; after that the request gets one item fewer."""

UInt64 = npt.NDArray[np.uint64]
Int64 = npt.NDArray[np.int64]


def with_negatives(events: pa.Table, num: int, chosen_from: str, seed: int) -> tuple[pa.Table, int]:
    """(the events with up to num unclicked ones added to each request that has only clicks, number of added events).

    events: EVENTS, each with its event_id. A click without a request becomes a request. Items are drawn from those
    clicked strictly before the request's time, in proportion to their clicks so far or uniformly, but never an item of
    the request. A draw depends only on the seed and the impression_id, so later rows of the log do not change it.
    """
    events = _as_requests(events)
    places, request, num_requests = _requests_of_clicks(events)
    if not num or not num_requests:
        return events, 0
    at = events["occurred_at"].to_numpy().astype("datetime64[us]").astype(np.int64)
    order = np.lexsort((at[places], request))
    first = places[order[np.r_[True, np.diff(request[order]) > 0]]]  # of each request, its earliest row
    items = pc.dictionary_encode(events["item_id"].combine_chunks())
    code = items.indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)
    pool, pool_at = _pool(events, at, code, chosen_from)
    num_before = np.searchsorted(pool_at, at[first])
    clicked = np.unique(request.astype(np.int64) * (len(items.dictionary) + 1) + code[places])
    names = events["impression_id"].take(pa.array(first)).to_pylist()
    drawn = _draw(_keys(names, seed), num, num_before, pool, clicked, len(items.dictionary) + 1)
    of, slot = np.nonzero(drawn >= 0)
    sampled = _rows(events, first[of], items.dictionary.take(pa.array(drawn[of, slot])))
    log.info("sampled %s unclicked rows for %s requests with only clicks", f"{len(sampled):,}", f"{num_requests:,}")
    return pa.concat_tables([events, sampled]), len(sampled)


def _as_requests(events: pa.Table) -> pa.Table:
    """A click without a request becomes a request of its own."""
    alone = pc.and_(pc.is_null(events["impression_id"]), _is_click(events))
    named = pc.binary_join_element_wise(pa.scalar(PREFIX), events["event_id"], "")
    column = pc.if_else(alone, named, events["impression_id"])
    return events.set_column(events.column_names.index("impression_id"), EVENTS.field("impression_id"), column)


def _is_click(events: pa.Table) -> pa.ChunkedArray:
    is_shown = pc.and_(pc.equal(events["role"], ROLE_IMPRESSION), pc.greater_equal(events["label"], CLICKED))
    there = pc.and_(pc.is_valid(events["user_id"]), pc.is_valid(events["item_id"]))
    return pc.and_(pc.fill_null(is_shown, False), there)


def _requests_of_clicks(events: pa.Table) -> tuple[Int64, Int64, int]:
    """(rows of requests that have only clicks, the number of each row's request from 0, number of requests)."""
    name = pc.dictionary_encode(pc.binary_join_element_wise(events["user_id"], events["impression_id"], "\x1f"))
    name = name.combine_chunks()
    is_named = name.is_valid().to_numpy(zero_copy_only=False)
    number = name.indices.fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64)
    is_click = _is_click(events).to_numpy().astype(bool)
    only_clicks = np.ones(len(name.dictionary), bool)
    only_clicks[number[is_named & ~is_click]] = False
    places = np.flatnonzero(is_named & is_click & only_clicks[number]) if len(only_clicks) else np.zeros(0, np.int64)
    distinct, request = np.unique(number[places], return_inverse=True)
    return places, request, len(distinct)


def _pool(events: pa.Table, at: Int64, code: Int64, chosen_from: str) -> tuple[Int64, Int64]:
    """(items in the order of their clicks, times of the clicks); if drawn uniformly, each item once, at its first."""
    clicked = np.flatnonzero(pc.fill_null(pc.greater_equal(events["label"], CLICKED), False).to_numpy() & (code >= 0))
    ids = pc.sort_indices(
        pa.table({"at": at[clicked], "item": events["item_id"].take(pa.array(clicked))}),
        sort_keys=[("at", "ascending"), ("item", "ascending")],
    ).to_numpy()
    item, item_at = code[clicked][ids], at[clicked][ids]
    if chosen_from == UNIFORM:
        _, once = np.unique(item, return_index=True)
        once.sort()
        return item[once], item_at[once]
    return item, item_at


def _keys(names: list[str], seed: int) -> UInt64:
    digests = (hashlib.blake2b(f"{seed}/{name}".encode(), digest_size=8).digest() for name in names)
    return np.frombuffer(b"".join(digests), "<u8").astype(np.uint64)


def _draw(keys: UInt64, num: int, num_before: Int64, pool: Int64, clicked: Int64, base: int) -> Int64:
    """[requests, num] codes of items, none twice in a request and none that it has; -1 if every draw was taken.

    clicked: request x base + item of the requests' own rows, ascending.
    """
    drawn = np.full((len(keys), num), -1, np.int64)
    request = np.arange(len(keys), dtype=np.int64)
    for number in range(ROUNDS):
        for slot in range(num):
            open_ = request[(drawn[:, slot] < 0) & (num_before > 0)]
            if not len(open_):
                continue
            at = _mixed(keys[open_] + np.uint64(number * num + slot + 1)) % num_before[open_].astype(np.uint64)
            item = pool[at.astype(np.int64)]
            spot = np.minimum(np.searchsorted(clicked, open_ * base + item), len(clicked) - 1)
            is_new = (clicked[spot] != open_ * base + item) & (drawn[open_] != item[:, None]).all(axis=1)
            drawn[open_[is_new], slot] = item[is_new]
    return drawn


def _mixed(values: UInt64) -> UInt64:
    """Sebastiano Vigna's splitmix64: a pseudo-random number for each value."""
    mixed = values * np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))


def _rows(events: pa.Table, beside: Int64, items: pa.Array) -> pa.Table:
    """Copies of the clicks (rows `beside`), with the same file and line, but unclicked and with other items."""
    taken = events.take(pa.array(beside))
    columns = {name: taken[name] for name in EVENTS.names}
    columns |= {
        "item_id": items,
        "label": pa.array(np.zeros(len(beside), np.float32)),
        "position": pa.nulls(len(beside), pa.int32()),
        "file": pc.binary_join_element_wise(pa.scalar(FILE), taken["file"], ""),
    }
    columns["event_id"] = event_ids(pa.table(columns))
    return pa.table(columns, schema=EVENTS)
