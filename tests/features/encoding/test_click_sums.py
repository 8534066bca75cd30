"""Sums that a load makes of clicks are those that a batch run computes of them, at any time and in any period."""

from pathlib import Path

import numpy as np
import pytest

from features.encoding import mapped
from features.encoding.coclicks import Clicks, Coclicks


def drawn(seed: int, num_clicks: int, num_periods: int) -> Coclicks:
    random = np.random.default_rng(seed)

    def clicks(number: int) -> Clicks:
        items, times, users = (random.integers(0, most, number) for most in (5, 40, 9))
        return Clicks.in_order(items * 3, times, users)  # users 7 and 8 have no factor; times are often equal

    shown = clicks(num_clicks)
    factors = random.integers(-127, 128, (num_periods, 7, 3)).astype(np.int8)
    starts = np.sort(random.choice(45, num_periods, replace=False)).astype(np.int64)
    codes = random.integers(-127, 128, (num_periods, 7, 2)).astype(np.int8)
    return Coclicks(shown.items, shown.times, shown.users, starts, factors, codes, clicks(num_clicks // 2))


@pytest.mark.parametrize(("num_clicks", "num_periods"), [(0, 2), (1, 1), (60, 4), (60, 0), (300, 6)])
@pytest.mark.parametrize("seed", range(3))
def test_what_is_loaded_reads_as_what_is_computed(seed: int, num_clicks: int, num_periods: int, tmp_path: Path) -> None:
    made = drawn(seed, num_clicks, num_periods)
    mapped.save(made.arrays() | made.sums(), tmp_path, "coclicks")
    again = Coclicks.of(mapped.load(tmp_path, "coclicks"))
    random = np.random.default_rng(seed)
    live = Clicks.in_order(*(random.integers(0, most, 8) for most in (15, 50, 9)))
    items, upto = np.arange(-1, 16)[:, None], np.arange(-1, 60)[None, :]
    for one, other in ((made, again), tuple(each.with_live(((live, live),)) for each in (made, again))):
        assert one.item_codes(items, upto).tobytes() == other.item_codes(items, upto).tobytes()
        for period in range(num_periods):
            begin, end = made.starts[period], [*made.starts[1:], 60][period]
            asked = np.broadcast_arrays(items, upto[:, (upto[0] >= begin) & (upto[0] < end)])
            assert one._fold(period, *asked).tobytes() == other._fold(period, *asked).tobytes()
    assert num_clicks < 60 or num_periods == 0 or made.item_codes(items, upto).any()


def test_users_in_another_order_read_the_same() -> None:
    made = drawn(0, 300, 4)
    order = np.random.default_rng(1).permutation(7)
    known = made.users < 7  # those whom a log has, all have a number
    made = Coclicks(
        *(each[known] for each in (made.items, made.times, made.users)), made.starts, made.factors, made.codes
    )
    other = made.renumbered(order)
    items, upto = np.arange(16)[:, None], np.arange(60)[None, :]
    assert other.item_codes(items, upto).tobytes() == made.item_codes(items, upto).tobytes()
    assert (other._fold(2, items, upto) == made._fold(2, items, upto)).all()
    assert (other.factors != made.factors).any()
