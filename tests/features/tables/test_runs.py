"""Keys that several rows have are found share by share as a plain count over all rows finds them."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from features.tables import runs
from features.tables.runs import Keys, RunWriter, apart, are_in, extremes, held, repeated

KEYS = st.sampled_from([0, 1, 5, 2**60 - 1, 2**60, 2**61 + 3, 2**63, 2**64 - 1])
"""Few, so that they meet again; at both sides of the cuts."""
BLOCKS = st.lists(st.lists(st.tuples(KEYS, st.integers(-9, 9)), max_size=6), max_size=4)
FILES = st.lists(BLOCKS, min_size=1, max_size=4)
Rows = Sequence[Sequence[Sequence[tuple[int, int]]]]


def of(keys: Sequence[int]) -> Keys:
    return np.array(sorted(keys), np.uint64)


def written(folder: Path, files: Rows) -> tuple[list[Path], list[Path]]:
    """Each file twice: keys alone, and with the numbers beside them."""
    alone, beside = [], []
    for place, blocks in enumerate(files):
        alone.append(folder / f"alone{place}.arrow")
        beside.append(folder / f"beside{place}.arrow")
        keys, numbers = RunWriter(alone[-1]), RunWriter(beside[-1], pa.int64())
        for block in blocks:
            keys.add(of([key for key, _ in block]))
            at = np.array([number for _, number in block], np.int64)
            numbers.add(*extremes(np.array([key for key, _ in block], np.uint64), at, at))
        keys.close()
        numbers.close()
    return alone, beside


@pytest.mark.parametrize("share_bytes", [1, 1 << 26])
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(files=FILES, wanted=st.sets(KEYS), by=st.integers(0, 6))
def test_shares_of_the_keys_find_what_a_count_over_all_rows_finds(
    share_bytes: int, files: Rows, wanted: set[int], by: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runs, "SHARE_BYTES", share_bytes)
        alone, beside = written(folder, files)
        rows = [row for blocks in files for block in blocks for row in block]
        counts, numbers = Counter(key for key, _ in rows), defaultdict(list)
        for key, number in rows:
            numbers[key].append(number)
        assert repeated(alone).tolist() == sorted(key for key, num in counts.items() if num > 1)
        assert apart(beside, by).tolist() == sorted(k for k, at in numbers.items() if max(at) - min(at) > by)
        for path, blocks in zip(alone, files, strict=True):
            there = {key for block in blocks for key, _ in block}
            assert held(path, of(list(wanted))).tolist() == sorted(wanted & there)
        keys = np.array([key for key, _ in rows], np.uint64)
        assert are_in(keys, of(list(wanted))).tolist() == [key in wanted for key, _ in rows]
