"""Files of partitions, in order -> batches of whole partitions of at least a given number of rows."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow.parquet as pq


def batches_of(files: Sequence[Path], most: int) -> Iterator[tuple[int, list[Path]]]:
    """(place of the first file, files) of each batch. most: a batch ends with the file that reaches so many rows."""
    first, num = 0, 0
    for place, file in enumerate(files):
        num += pq.read_metadata(file).num_rows
        if num >= most or place == len(files) - 1:
            yield first, list(files[first : place + 1])
            first, num = place + 1, 0
