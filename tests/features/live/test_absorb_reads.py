"""absorb reads no file again that has not changed, and seals as if it had read them all."""

import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from contracts.errors import InputError
from contracts.known_hashes import remembering
from features.live.absorb import _table, absorb
from features.live.sqlite import SqliteTail
from features.sealed import files as sealed_room
from features.sealed.event import EVENT, SQLITE, LiveEvent
from features.sealed.files import newest_seq, read_sealed, sealed_files, sealed_seq, write_sealed, writing
from tests.features.live.test_absorb import event

DAY_US = 86_400_000_000


def seal_days(folder: Path, num_days: int, num_events: int) -> None:
    """Sealed files of days long past, as earlier calls left them."""
    for day in range(num_days):
        first = 1_600_000_000_000_000 + day * DAY_US
        rows = [
            (first + n, LiveEvent(f"d{day}-{n}", EVENT, "u", "i", first, 1.0, "impression", True))
            for n in range(num_events)
        ]
        write_sealed(folder / f"2020-09-{13 + day}.parquet", _table(rows))


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The sealed files whose rows are read."""
    names: list[str] = []

    def counted(path: Path) -> pa.Table:
        names.append(path.name)
        return read_sealed(path)

    monkeypatch.setattr(sealed_room, "read_sealed", counted)
    return names


def test_earlier_days_are_not_read_again(tmp_path: Path, read: list[str]) -> None:
    folder = tmp_path / "live" / "table"
    seal_days(folder, 5, 20)
    tail = SqliteTail(tmp_path / "live" / "table.db")
    tail.append([event(0)])
    with remembering(tmp_path):
        (today,) = absorb(tail, folder)
    assert read == []  # those of write_sealed are as live/known.json has them
    assert sealed_seq(folder, SQLITE) == newest_seq([read_sealed(path) for path in sealed_files(folder)])
    (folder / "2020-09-14.parquet").write_bytes((folder / today).read_bytes()[:-9])
    with remembering(tmp_path), pytest.raises(InputError, match="2020-09-14"):
        absorb(tail, folder)


@pytest.mark.parametrize("seed", range(12))
def test_whatever_came_between_it_seals_what_reading_everything_would(seed: int, tmp_path: Path) -> None:
    random, number = np.random.default_rng(seed), 0
    folder, tail = tmp_path / "live" / "table", SqliteTail(tmp_path / "live" / "table.db")
    seal_days(folder, 3, 4)
    before = {row["event_id"] for path in sealed_files(folder) for row in read_sealed(path).to_pylist()}
    for _ in range(12):
        match random.integers(6):
            case 0:
                shutil.rmtree(tmp_path / ".cache", ignore_errors=True)
            case 1:  # written again without a footer of ours, or by another clone: the same rows in other bytes
                path = sealed_files(folder)[random.integers(len(sealed_files(folder)))]
                with writing(folder):
                    write_sealed(path, read_sealed(path), newest_seq([read_sealed(path)]) + int(random.integers(2)))
            case 2:
                (tmp_path / "live" / "known.json").unlink(missing_ok=True)
            case _:
                new = [event(number + each) for each in range(random.integers(1, 4))]
                tail.append(new)
                number += len(new)
        with remembering(tmp_path):
            absorb(tail, folder)
            assert sealed_seq(folder, SQLITE) == newest_seq([read_sealed(path) for path in sealed_files(folder)])
    rows = [row["event_id"] for path in sealed_files(folder) for row in read_sealed(path).to_pylist()]
    assert len(rows) == len(set(rows)) == len(before) + number
    assert set(rows) == before | {f"e{each}" for each in range(number)}
