"""A full disk is told from a defect, whichever library met it."""

import errno
import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from contracts.files import is_full
from tests.clones import ROOT

LIMIT = 65_536
SAVE = f"""
import resource, sys
from pathlib import Path
import numpy as np
from contracts.files import is_full
resource.setrlimit(resource.RLIMIT_FSIZE, ({LIMIT}, {LIMIT}))
try:
    np.save(sys.argv[1], np.zeros({LIMIT}))
except OSError as error:
    print(is_full(error), error.errno, error)
"""


def test_a_database_that_is_full(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "a.db")) as connection:
        connection.execute("PRAGMA max_page_count = 2")
        connection.execute("CREATE TABLE t (x)")
        with pytest.raises(sqlite3.OperationalError) as raised:
            connection.execute("INSERT INTO t VALUES (?)", (b"x" * LIMIT,))
        assert is_full(raised.value)
        with pytest.raises(sqlite3.OperationalError) as raised:
            connection.execute("SELECT y FROM t")
        assert not is_full(raised.value)


def test_an_array_that_is_written_in_part(tmp_path: Path) -> None:
    """In a process of its own, which has a limit of the size of a file."""
    done = subprocess.run(
        [sys.executable, "-c", SAVE, str(tmp_path / "a.npy")], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("True None "), done.stdout
    assert "requested and" in done.stdout


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_disk_or_a_quota_that_is_full(number: int) -> None:
    assert is_full(OSError(number, os.strerror(number)))
    assert is_full(RuntimeError(f"writer failed: {os.strerror(number)} (os error {number})"))
    assert not is_full(OSError(errno.EIO, os.strerror(errno.EIO)))
