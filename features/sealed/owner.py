"""The identity of the log that a SQLite file of live events belongs to, stored in the file."""

import sqlite3
from pathlib import Path

BELONGS = "CREATE TABLE IF NOT EXISTS belongs (only_row INTEGER PRIMARY KEY CHECK (only_row = 1), log TEXT NOT NULL)"
"""log: an identity (features/sealed/log_id.py). A separate table, so that it can be added to older files."""
CLAIM = "INSERT OR IGNORE INTO belongs VALUES (1, ?)"
WHOSE = "SELECT log FROM belongs"


def noted_in(database: Path) -> str | None:
    """The identity of the log; None if there is no file or no identity in it."""
    if not database.exists():
        return None
    try:
        connection = sqlite3.connect(f"{database.resolve().as_uri()}?mode=ro", uri=True, timeout=5)
        try:
            row = connection.execute(WHOSE).fetchone()
        finally:
            connection.close()
    except sqlite3.Error:  # a file of an older version, or a damaged one, which is reported when it is opened for use
        return None
    return None if row is None else row[0]
