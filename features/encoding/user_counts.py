"""What is counted of one user, and of each item with that user <-> bytes: a row of the online store. numpy only.

A row holds all rows of the user in user_counters and user_item_counters, so that reads of it are exact at any time. It
decodes to the arrays that as_of.py searches. Numbers are kept in the fewest bytes that hold them, and a count as what
it grew by: some 7 bytes a show, and an item's id once.
"""

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from features.encoding.as_of import AsOfCounter
from features.encoding.counters import PAIR_RADIX, Counters

Int64 = npt.NDArray[np.int64]

NONE = np.zeros(0, np.int64)
VERSION = 1
UNNAMED = PAIR_RADIX - 1
"""The key of a user whom no table of a process numbers: their own row is all that is counted of them."""
HEAD = struct.Struct("<BIII7B")
"""Version, lengths of times, item_ids and pair rows, and of each array below how many bytes a number takes."""
SEPARATOR = "\0"
"""Between ids; where an id has one itself, id_lengths part them, else these take no bytes."""
ORDER = ("shows", "clicks", "id_lengths", "rows_of_item", "pair_times", "pair_shows", "pair_clicks")


@dataclass(frozen=True)
class UserCounts:
    """Counts of one user. Times ascend; running counts are those of as_of.py, a row's own time included."""

    times: Int64  # [T] us, when something of the user was counted
    shows: Int64  # [T] running
    clicks: Int64  # [T] running
    item_ids: list[str]  # [I] those of the pairs
    pair_items: Int64  # [P] position in item_ids, ascending
    pair_times: Int64  # [P] position in times, ascending within an item
    pair_shows: Int64  # [P] running, of the pair
    pair_clicks: Int64  # [P] running, of the pair

    def counters(self, user_key: int, item_keys: Int64) -> tuple[AsOfCounter, AsOfCounter]:
        """user_counters and user_item_counters of this user alone.

        item_keys: [I] of item_ids, each once; negative where there is none: nothing can be asked of such an item.
        """
        num_times = len(self.times)
        one = np.array([user_key][: num_times and 1], np.int64)
        own = AsOfCounter(one, self.times, np.arange(num_times, dtype=np.int64), self.shows, self.clicks)
        if not len(item_keys) or (item_keys[0] >= 0 and (item_keys[1:] > item_keys[:-1]).all()):  # in order already
            packed = self.pair_items * (num_times + 1) + self.pair_times
            keys = user_key * PAIR_RADIX + item_keys
            return own, AsOfCounter(keys, self.times, packed, self.pair_shows, self.pair_clicks)
        order = np.argsort(item_keys)
        rank = np.empty(len(order), np.int64)
        rank[order] = np.arange(len(order))
        packed = rank[self.pair_items] * (num_times + 1) + self.pair_times
        rows = np.argsort(packed, kind="stable")
        num_unknown = int((item_keys < 0).sum())
        first = int(np.searchsorted(packed[rows], num_unknown * (num_times + 1)))
        keys, rows = user_key * PAIR_RADIX + item_keys[order[num_unknown:]], rows[first:]
        packed = packed[rows] - num_unknown * (num_times + 1)
        return own, AsOfCounter(keys, self.times, packed, self.pair_shows[rows], self.pair_clicks[rows])

    def encode(self) -> bytes:
        """decode gives the same object again."""
        ids = [item_id.encode() for item_id in self.item_ids]
        is_parted = any(SEPARATOR in item_id for item_id in self.item_ids)
        first_of_item = np.r_[True, np.diff(self.pair_items) != 0][: len(self.pair_items)]
        arrays = {
            "shows": _grown(self.shows, np.arange(len(self.times)) == 0),
            "clicks": _grown(self.clicks, np.arange(len(self.times)) == 0),
            "id_lengths": np.array([len(name) for name in ids], np.int64) if is_parted else NONE,
            "rows_of_item": np.bincount(self.pair_items, minlength=len(ids)),
            "pair_times": self.pair_times,
            "pair_shows": _grown(self.pair_shows, first_of_item),
            "pair_clicks": _grown(self.pair_clicks, first_of_item),
        }
        lengths = len(self.times), len(ids), len(self.pair_times)
        return _pack(lengths, self.times, arrays, (b"" if is_parted else SEPARATOR.encode()).join(ids))

    @classmethod
    def decode(cls, row: bytes) -> "UserCounts":
        """Raises ValueError where the bytes are no row, or one of another version."""
        times, arrays, ids = _unpack(row)
        rows_of_item = arrays["rows_of_item"]
        firsts = np.cumsum(rows_of_item) - rows_of_item
        return cls(
            times=times,
            shows=np.cumsum(arrays["shows"]),
            clicks=np.cumsum(arrays["clicks"]),
            item_ids=ids,
            pair_items=np.repeat(np.arange(len(rows_of_item)), rows_of_item),
            pair_times=arrays["pair_times"],
            pair_shows=_running(arrays["pair_shows"], firsts, rows_of_item),
            pair_clicks=_running(arrays["pair_clicks"], firsts, rows_of_item),
        )


NO_COUNTS = UserCounts(NONE, NONE, NONE, [], NONE, NONE, NONE, NONE)


def rows_of_users(
    counters: Counters, item_id: Callable[[int], str], first: int, last: int
) -> Iterator[tuple[int, int, bytes]]:
    """(user key, us of the newest row, row) of each user with keys [first, last) of whom something is counted.

    counters: of a log, by any numbering of users. item_id: of an item's key.
    """
    own, pairs = counters.user_counters, counters.user_item_counters
    assert isinstance(own, AsOfCounter)
    assert isinstance(pairs, AsOfCounter)
    time_radix, pair_radix = len(own.times) + 1, len(pairs.times) + 1
    ranks = np.arange(*np.searchsorted(own.keys, [first, last]))
    bounds = np.searchsorted(own.packed, np.r_[ranks, ranks[-1:] + 1] * time_radix).tolist()
    keys = own.keys[ranks]
    pair_keys = np.searchsorted(pairs.keys, np.c_[keys, keys + 1] * PAIR_RADIX)
    pair_bounds = np.searchsorted(pairs.packed, pair_keys * pair_radix).tolist()
    for place, key in enumerate(keys.tolist()):
        rows, pair_rows = slice(bounds[place], bounds[place + 1]), slice(*pair_bounds[place])
        times = own.times[own.packed[rows] % time_radix]
        pair_key, pair_time = np.divmod(pairs.packed[pair_rows], pair_radix)
        items, pair_items = np.unique(pairs.keys[pair_key] % PAIR_RADIX, return_inverse=True)
        counts = UserCounts(
            times=times,
            shows=own.shows[rows].astype(np.int64),
            clicks=own.clicks[rows].astype(np.int64),
            item_ids=[item_id(item) for item in items.tolist()],
            pair_items=pair_items.astype(np.int64),
            pair_times=np.searchsorted(times, pairs.times[pair_time]),
            pair_shows=pairs.shows[pair_rows].astype(np.int64),
            pair_clicks=pairs.clicks[pair_rows].astype(np.int64),
        )
        yield key, int(times[-1]), counts.encode()


def _pack(lengths: tuple[int, int, int], times: Int64, arrays: dict[str, Int64], ids: bytes) -> bytes:
    narrow = [_narrow(arrays[name]) for name in ORDER]
    widths = [each.itemsize if len(each) else 0 for each in narrow]
    head = HEAD.pack(VERSION, *lengths, *widths)
    return b"".join([head, times.astype("<i8").tobytes(), *(each.tobytes() for each in narrow), ids])


def _unpack(row: bytes) -> tuple[Int64, dict[str, Int64], list[str]]:
    try:
        version, num_times, num_items, num_pairs, *widths = HEAD.unpack_from(row)
    except struct.error as error:
        raise ValueError(f"{len(row):,} bytes are no row of a user's counts: {error}") from error
    if version != VERSION:
        raise ValueError(f"a row of a user's counts is of version {version}, and this one reads {VERSION}")
    lengths = (num_times, num_times, num_items, num_items, num_pairs, num_pairs, num_pairs)
    at = HEAD.size
    times = np.frombuffer(row, "<i8", num_times, at).astype(np.int64)
    at += 8 * num_times
    arrays = {}
    for name, width, length in zip(ORDER, widths, lengths, strict=True):
        arrays[name] = np.frombuffer(row, f"<u{width}", length, at).astype(np.int64) if width else NONE
        at += width * length
    ids = _split(row[at:], arrays["id_lengths"], num_items)
    if len(ids) != num_items:
        raise ValueError(f"a row of a user's counts has {len(row):,} bytes, and says it has others")
    return times, arrays, ids


def _split(ids: bytes, lengths: Int64, number: int) -> list[str]:
    if not len(lengths):
        return ids.decode().split(SEPARATOR) if number or ids else []
    ends = np.cumsum(lengths)
    return [ids[start:end].decode() for start, end in zip((ends - lengths).tolist(), ends.tolist(), strict=True)]


def _narrow(values: Int64) -> npt.NDArray[np.unsignedinteger]:
    largest = int(values.max(initial=0))
    kind = next(kind for kind in ("<u1", "<u2", "<u4", "<u8") if largest <= np.iinfo(kind).max)
    return values.astype(kind)


def _grown(running: Int64, first: npt.NDArray[np.bool_]) -> Int64:
    """What each running count grew by. first: where another key's counts begin."""
    return running - np.where(first, 0, np.r_[0, running[:-1]][: len(running)])


def _running(grown: Int64, firsts: Int64, lengths: Int64) -> Int64:
    if not len(grown):
        return grown
    total = np.cumsum(grown)
    firsts = np.minimum(firsts, len(grown) - 1)  # of an item without a row nothing is repeated
    return total - np.repeat(total[firsts] - grown[firsts], lengths)
