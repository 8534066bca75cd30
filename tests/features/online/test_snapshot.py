"""A snapshot's identity covers every file that a loaded store is made of: each partition of each counters table."""

import shutil
from pathlib import Path

import pyarrow.compute as pc
import pyarrow.parquet as pq

from features.encoding.counters import NAMES
from features.online.snapshot import write_snapshot
from tests.features.small_log import build, random_log, settings, statistics


def test_every_partition_of_every_table_is_named_and_changes_the_identity(tmp_path: Path) -> None:
    data = tmp_path / "data" / "table"
    histories = build(data, random_log(1))
    for name in NAMES:  # two partitions, of the same names in all tables
        shutil.copy(data / name / "2024-01.parquet", data / name / "2024-02.parquet")

    def snapshot() -> dict:
        (tmp_path / "snapshot").mkdir(exist_ok=True)
        return write_snapshot(data, histories, 50, settings(), tmp_path / "snapshot")

    first = snapshot()
    partitions = {f"{name}/2024-{month}.parquet" for name in NAMES for month in ("01", "02")}
    assert first["files"].keys() == {"user_history.parquet", "user_state.parquet", "item_profile.parquet"} | partitions
    seen = {first["snapshot_id"]}
    for name in sorted(partitions):
        table = pq.read_table(data / name)
        more = pc.add(table["shows"], 1)
        pq.write_table(
            table.set_column(table.column_names.index("shows"), table.schema.field("shows"), more), data / name
        )
        seen.add(snapshot()["snapshot_id"])
    assert len(seen) == 1 + len(partitions)


def test_the_co_clicks_are_named_and_change_the_identity(tmp_path: Path) -> None:
    data = tmp_path / "data" / "table"
    histories = build(data, random_log(1), statistics(coclick_rank=2))

    def snapshot() -> dict:
        (tmp_path / "snapshot").mkdir(exist_ok=True)
        return write_snapshot(data, histories, 50, settings(), tmp_path / "snapshot")

    seen = {snapshot()["snapshot_id"]}
    for name in ("coclicks/clicks.parquet", "coclicks/factors.parquet"):
        assert name in snapshot()["files"]
        table = pq.read_table(data / name)
        pq.write_table(table.slice(1), data / name)
        seen.add(snapshot()["snapshot_id"])
    assert len(seen) == 3
