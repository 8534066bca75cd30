"""The cache does not grow while a log is refused again and again, and leftovers of a killed run are removed."""

from pathlib import Path

import pytest

from contracts.errors import InputError
from tests.features.planted import clean, write
from tests.features.raw_logs import ingest_table


def folders(root: Path) -> set[str]:
    return {path.name for path in (root / ".cache" / "ingest" / "table").iterdir() if path.is_dir()}


def test_a_log_that_is_refused_repeatedly_does_not_fill_the_cache(tmp_path: Path) -> None:
    data, folder = tmp_path / "data" / "table", tmp_path / "log"
    write(folder / "a.csv", clean(30))
    ingest_table(data, folder)
    good = folders(tmp_path)
    assert len(good) == 3  # the file's rows, what they are beside each other, and the requests in it
    write(folder / "z.csv", ["1"], "nothing")
    for attempt in range(4):  # a.csv is mended again and again, and z.csv refuses the log each time
        write(folder / "a.csv", clean(31 + attempt))
        with pytest.raises(InputError, match=r"z\.csv"):
            ingest_table(data, folder)
        assert good < folders(tmp_path)
        assert len(folders(tmp_path)) == 4  # those of the last good run, and the file of this attempt
    (folder / "z.csv").unlink()
    ingest_table(data, folder)
    assert len(folders(tmp_path)) == 3


def test_leftovers_of_a_killed_run_are_removed(tmp_path: Path) -> None:
    data, folder = tmp_path / "data" / "table", tmp_path / "log"
    write(folder / "a.csv", clean(30))
    left = tmp_path / ".cache" / "ingest" / "table" / ".scratch-killed"
    write(left / "spilt" / "rows.tmp", ["of somebody"])
    ingest_table(data, folder)
    assert not left.exists()
