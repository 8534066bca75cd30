"""Great Expectations' verdicts on the log and on its partitions, by what they depend on: each is found once."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from features.quality.code import code
from features.tables.cache import PartitionCache, key_of


class Verdicts:
    """Verdicts in a cache."""

    def __init__(self, cache: PartitionCache, basis: str) -> None:
        """basis: a hash of the rules and the suite."""
        self._cache, self._basis = cache, basis
        self.keys: set[str] = set()

    def __call__(self, of: Sequence[object], find: Callable[[], Mapping[str, Any]]) -> Mapping[str, Any]:
        """The verdict. of: everything else that it depends on. find: called if it is not known."""
        key = key_of(code(), "verdict", self._basis, of)
        if (found := self._cache.noted(key)) is None:
            self._cache.note(key, find())
            found = self._cache.noted(key)
            assert found is not None, key
        self.keys.add(key)
        return found
