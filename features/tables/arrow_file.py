"""Tables <-> files in Arrow's format, of which any slice is read without the rest."""

from pathlib import Path

import pyarrow as pa


def store_arrow(table: pa.Table, path: Path) -> None:
    """Write a table to a file in Arrow's format."""
    with pa.ipc.new_file(str(path), table.schema) as writer:
        writer.write_table(table)


def read_arrow(path: Path) -> pa.Table:
    """A file in Arrow's format, mapped into memory: nothing is read until it is touched."""
    with pa.memory_map(str(path)) as handle:
        return pa.ipc.open_file(handle).read_all()
