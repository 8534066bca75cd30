"""Every candidate of EB-NeRD, in the preset's seven windows: Feast's own API gives what training reads."""

from pathlib import Path

import pytest

from features.feast_store.repository import definitions
from features.online.load import offline_store
from features.tables.event_counts import USER_EVENTS, write_event_counts
from features.tables.histories import UserHistories
from tests import ebnerd_log
from tests.clones import real_data
from tests.features.retrieved import compare

pytestmark = [pytest.mark.xdist_group("ebnerd"), pytest.mark.slow]


def test_every_row_of_ebnerd_knows_what_training_reads(ebnerd: Path, tmp_path: Path) -> None:
    sections = ebnerd_log.sections_of(real_data("ebnerd-demo"), tmp_path / "params")
    own, counted = sections["history"], sections["statistics"]
    write_event_counts(UserHistories.open(ebnerd / "user_histories"), tmp_path / USER_EVENTS)
    with offline_store(tmp_path, tmp_path / "spill") as store:
        store.apply(definitions(ebnerd, tmp_path, own, counted))
        assert compare(store, ebnerd, own, counted).num_rows == 583_054
