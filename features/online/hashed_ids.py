"""Ids -> numbers through a sorted, memory-mapped array of their hashes, so that no id is kept in memory."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from contracts.errors import InputError
from features.terms.convention import key_of_text

Int64 = npt.NDArray[np.int64]


class HashedIds(Mapping[str, int]):
    """Each id's number is the rank of its hash."""

    def __init__(self, hashes: Int64) -> None:
        self.hashes = hashes  # ascending

    def __getitem__(self, name: str) -> int:
        key = key_of_text(name)
        rank = int(np.searchsorted(self.hashes, key))
        if rank == len(self.hashes) or self.hashes[rank] != key:
            raise KeyError(name)
        return rank

    def __len__(self) -> int:
        return len(self.hashes)

    def __iter__(self) -> Iterator[Any]:
        self._no_list()

    def _no_list(self) -> NoReturn:
        raise TypeError("ids that are stored as hashes cannot be listed")


def hashes_of(ids: Sequence[str]) -> tuple[Int64, Int64]:
    """(ascending hashes, the position in `ids` of each). Raises InputError if two ids have the same hash."""
    hashes = np.fromiter((key_of_text(name) for name in ids), np.int64, len(ids))
    order = np.argsort(hashes, kind="stable")
    hashes = hashes[order]
    if len(same := np.flatnonzero(hashes[1:] == hashes[:-1])):
        pair = [ids[place] for place in order[same[0] : same[0] + 2]]
        raise InputError(f"The user_ids {pair[0]!r} and {pair[1]!r} have the same 64-bit hash: rename one of them.")
    return hashes, order
