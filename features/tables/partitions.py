"""Parquet files named after a day, month or year -> their time spans, in order."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from contracts.errors import InputError

UNITS = {"D": "day", "M": "month", "Y": "year"}


@dataclass(frozen=True, order=True)
class Partition:
    """One day, month or year, UTC. The names of one unit are in the order of time."""

    name: str

    @property
    def unit(self) -> str:
        """D, M or Y. Raises ValueError if the name is not of a day, month or year."""
        lengths = {len("2024-01-31"): "D", len("2024-01"): "M", len("2024"): "Y"}
        try:
            unit = lengths[len(self.name)]
            if str(np.datetime64(self.name, unit)) == self.name:
                return unit
        except (KeyError, ValueError):
            pass
        raise ValueError(f"{self.name!r} names no day, month or year")

    @property
    def first_us(self) -> int:
        """Its first microsecond since 1970."""
        return int(np.datetime64(self.name).astype("datetime64[us]").astype(np.int64))

    @property
    def last_us(self) -> int:
        """Its last microsecond."""
        return int((np.datetime64(self.name) + 1).astype("datetime64[us]").astype(np.int64)) - 1

    @classmethod
    def at(cls, at_us: int, unit: str) -> "Partition":
        """The partition that contains a time (us)."""
        return cls(str(np.datetime64(at_us, "us").astype(f"datetime64[{unit}]")))


def partitions_of(folder: Path) -> dict[Partition, Path]:
    """All files of a time-partitioned output, in order of time. Raises InputError if a name is not a time."""
    files = {Partition(path.stem): path for path in sorted(folder.glob("*.parquet"))}
    try:
        units = {partition.unit for partition in files}
    except ValueError as error:
        raise InputError(f"{folder}: {error}. `dvc repro --force ingest validate` names the files.") from None
    if len(units) > 1:
        found = " and ".join(sorted(UNITS[unit] for unit in units))
        raise InputError(f"{folder} is partitioned by {found}. `dvc repro --force ingest validate` names the files.")
    return files


def check_times(files: Mapping[Partition, Path]) -> None:
    """Raises InputError if a file has an occurred_at outside its partition, by its row groups' statistics."""
    for partition, path in files.items():
        metadata = pq.read_metadata(path)
        place = metadata.schema.names.index("occurred_at")
        groups = [metadata.row_group(group) for group in range(metadata.num_row_groups)]
        spans = [group.column(place).statistics for group in groups if group.num_rows]
        for first, last in ((_us(span.min), _us(span.max)) for span in spans):
            if first < partition.first_us or last > partition.last_us:
                raise InputError(
                    f"{path} holds events from {np.datetime64(first, 'us')} to {np.datetime64(last, 'us')}, which are "
                    f"not all of {partition.name}. Rebuild the files with `dvc repro --force ingest validate`."
                )


def _us(at: object) -> int:
    return pa.scalar(at, pa.timestamp("us", tz="UTC")).cast(pa.int64()).as_py()
