"""The part of every cache key that covers code: the modules of these rooms and the libraries that judge and write."""

import hashlib
from functools import cache
from importlib.metadata import version
from pathlib import Path


@cache
def code() -> list[str]:
    """A hash of the code, and the versions of the libraries."""
    rooms = [Path(__file__).parent, Path(__file__).parents[1] / "tables", Path(__file__).parents[1] / "terms"]
    files = sorted(path for room in rooms for path in room.glob("*.py"))
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()
    return [digest, *(version(name) for name in ("great_expectations", "pandas", "duckdb", "pyarrow"))]
