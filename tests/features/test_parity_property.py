"""Whatever the params, a log that is fed event by event reads at every request as its tables do; a crawler among all.

LEITMOTIF_PARITY_SETS: how many random sets of params are drawn; 12 where it is not set.
"""

import os
from pathlib import Path

import pytest

from tests.features.random_params import build, draw, replayed

NUM_SETS = int(os.environ.get("LEITMOTIF_PARITY_SETS", "12"))


@pytest.mark.parametrize("seed", range(NUM_SETS))
def test_online_reads_what_training_reads_whatever_the_params(seed: int, tmp_path: Path) -> None:
    drawn = draw(seed)
    data = tmp_path / "data" / "log"
    compared, left_out, fed = replayed(data, drawn, build(data, drawn), tmp_path / "scratch")
    assert compared.first == []
    assert compared.checked > 10
    assert left_out <= compared.checked
    assert fed > 20
