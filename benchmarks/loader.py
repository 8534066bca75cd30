"""Speed of making batches from stored histories, in samples per CPU second from the page cache, one core.

`python -m benchmarks.loader`: the newest --length events of --batch random requests at a time, as a training loader
reads them from memory-mapped histories: their items alone, all that is stored, and encoded as the model reads them.
Beside them, over the same requests: numpy's own indexing, one Python slice a sample, and one Parquet row a sample read
in order by Arrow, as logs with a list in every row are.
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from features.encoding.encode import FeatureSpec, encode_histories, newest

Int64 = npt.NDArray[np.int64]
ARRAYS = {"item_index": np.int32, "occurred_at": np.int64, "label": np.float32, "session": np.int32}
NUM_PARQUET_ROWS = 20_000


def main() -> None:
    """Print one line per way of loading."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.loader", description=__doc__)
    parser.add_argument("--events", type=int, default=20_000_000)
    parser.add_argument("--length", type=int, default=1000)
    parser.add_argument("--batch", type=int, default=1024)
    parser.add_argument("--seconds", type=float, default=3.0, help="of CPU, for each line")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        arrays = write(Path(folder), options.events)
        rates = measure(arrays, Path(folder), options.length, options.batch, options.seconds)
    ours = rates["ours: items"]
    print(f"{'way':<44} {'samples / CPU s':>16} {'to ours: items':>15}")
    for name, rate in rates.items():
        print(f"{name:<44} {rate:>16,.0f} {rate / ours:>15.3f}")


def write(folder: Path, num_events: int) -> dict[str, np.ndarray]:
    """Random flat arrays, memory-mapped and read once."""
    draw = np.random.default_rng(0)
    for name, kind in ARRAYS.items():
        np.save(folder / f"{name}.npy", draw.integers(0, 1 << 20, num_events).astype(kind))
    arrays = {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in ARRAYS}
    for array in arrays.values():
        array.sum()
    return arrays


def measure(arrays: dict[str, np.ndarray], folder: Path, length: int, batch: int, seconds: float) -> dict[str, float]:
    """Samples a CPU second of each way, by its name."""
    ends = np.random.default_rng(1).integers(length, len(arrays["item_index"]), (64, batch))
    back = np.arange(-length, 0)
    items, spec = np.asarray(arrays["item_index"]), _spec(length)
    buffer = np.empty((batch, length), np.int32)

    def sliced(end: Int64) -> None:
        for row, each in enumerate(end.tolist()):
            buffer[row] = items[each - length : each]

    def encoded(end: Int64) -> None:
        at = np.full(batch, 1 << 40)
        encode_histories(spec, *arrays.values(), starts=end - length, ends=end, at=at)

    ways: dict[str, Callable[[Int64], object]] = {
        "ours: items": lambda end: newest(items, end, length),
        "ours: all four arrays": lambda end: [newest(array, end, length) for array in arrays.values()],
        "ours: encoded for the model": encoded,
        "numpy indexing: items": lambda end: items[end[:, None] + back],
        "a Python slice a sample: items": sliced,
    }
    rates = {name: _rate(way, ends, batch, seconds) for name, way in ways.items()}
    path, num_rows = folder / "rows.parquet", min(NUM_PARQUET_ROWS, len(items) // length)
    lists = pa.FixedSizeListArray.from_arrays(pa.array(items[: num_rows * length]), length).cast(pa.list_(pa.int32()))
    pq.write_table(pa.table({"items": lists}), path, compression="zstd")
    rows = _batches(path, batch)
    rates["Parquet, a row a sample, in order: items"] = _rate(lambda _: next(rows), ends, batch, seconds)
    return rates


def _batches(path: Path, batch: int) -> Iterator[pa.RecordBatch]:
    while True:
        yield from pq.ParquetFile(path).iter_batches(batch)


def _rate(way: Callable[[Int64], object], ends: Int64, batch: int, seconds: float) -> float:
    way(ends[0])
    num, began = 0, time.process_time()
    while time.process_time() - began < seconds:
        way(ends[num % len(ends)])
        num += 1
    return num * batch / (time.process_time() - began)


def _spec(length: int) -> FeatureSpec:
    return FeatureSpec(
        history_length=length,
        labels="clicked",
        history_lag_s=0,
        session_gap_s=1800,
        session_max_s=None,
        windows_s=(),
        shows_lag_s=0,
        clicks_lag_s=0,
        user_lag_s=0,
        context=False,
        devices=(),
        coclick_rank=0,
        coclick_period_s=86_400,
        in_list=False,
    )


if __name__ == "__main__":
    main()
