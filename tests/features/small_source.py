"""data/<source> of a small log up to its snapshot, and a new snapshot with more live events in the log."""

from pathlib import Path

from contracts.publish import write_json
from features.online.snapshot import write_snapshot
from features.tables.histories import UserHistories
from tests.features.small_log import build, random_log, settings, statistics


def make(folder: Path) -> Path:
    """A source of a test's own, by the name of its folder; its log holds nothing live."""
    data = folder / "data" / folder.name
    build(data, random_log(3), statistics())
    take(data, {})
    return data


def take(data: Path, absorbed: dict[str, int]) -> None:
    """A snapshot of a log that holds live events up to these."""
    write_json(data / "absorbed" / "absorbed.json", absorbed)
    (data / "feature_snapshot").mkdir(exist_ok=True)
    histories = UserHistories.open(data / "user_histories")
    write_snapshot(data, histories, 50, settings(), data / "feature_snapshot")
