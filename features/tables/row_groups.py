"""Tables in memory, one after the other -> one Parquet file with row groups of equal size."""
# pyright: reportAttributeAccessIssue=false

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

ROW_GROUP = 1 << 20


@contextmanager
def row_groups(path: Path, schema: pa.Schema, size: int = ROW_GROUP) -> Iterator[Callable[[pa.Table], None]]:
    """Append tables to one Parquet file with row groups of equal size, whatever the sizes of the tables."""
    held = schema.empty_table()
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:

        def append(piece: pa.Table) -> None:
            nonlocal held
            held = pa.concat_tables([held, piece.cast(schema)])
            while len(held) >= size:
                writer.write_table(held.slice(0, size).combine_chunks(), row_group_size=size)
                held = held.slice(size)

        yield append
        if len(held):
            writer.write_table(held.combine_chunks(), row_group_size=ROW_GROUP)
