"""Files that are joined without decoding are, byte for byte, the file that one writer makes of the same row groups."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contracts.errors import InputError
from features.tables.parquet_parts import joining
from features.tables.thrift import Elements, Fields, Value, read_struct, write_struct

MANY = 16
SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("at", pa.timestamp("us", "UTC")),
        pa.field("lists", pa.list_(pa.string())),
        pa.field("bytes", pa.binary()),
        *(pa.field(f"number{place}", pa.float32()) for place in range(MANY)),
    ]
)


def row_group(seed: int, num_rows: int) -> pa.Table:
    """Random rows, of which some are null, in a dictionary or not."""
    draw = np.random.default_rng(seed)
    columns = {
        "id": [f"u{number}" for number in draw.integers(0, 5, num_rows)],
        "at": [None if number % 3 == 0 else number for number in draw.integers(0, 10**15, num_rows).tolist()],
        "lists": [[f"i{seed}"] * number if number else None for number in draw.integers(0, 4, num_rows)],
        "bytes": [draw.bytes(number) for number in draw.integers(0, 300, num_rows)],
    }
    columns |= {f"number{place}": draw.random(num_rows, np.float32) for place in range(MANY)}
    return pa.table([pa.array(columns[field.name], field.type) for field in SCHEMA], schema=SCHEMA)


def write(path: Path, groups: list[pa.Table]) -> Path:
    with pq.ParquetWriter(path, SCHEMA, compression="zstd") as writer:
        for group in groups:
            writer.write_table(group)
    return path


def joined(path: Path, parts: list[Path]) -> Path:
    with joining(path) as file:
        for part in parts:
            file.append(part)
    assert file.num_rows == pq.read_metadata(path).num_rows
    return path


@settings(max_examples=25, deadline=None)
@given(st.lists(st.lists(st.sampled_from([0, 1, 7, 90]), max_size=4), min_size=1, max_size=5))
def test_any_division_into_parts_gives_the_bytes_of_one_writer(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[list[int]]
) -> None:
    folder = tmp_path_factory.mktemp("parts")
    parts = [[row_group(10 * place + seed, num) for seed, num in enumerate(part)] for place, part in enumerate(sizes)]
    whole = write(folder / "whole.parquet", [group for part in parts for group in part])
    made = joined(folder / "made.parquet", [write(folder / f"{place}", part) for place, part in enumerate(parts)])
    assert made.read_bytes() == whole.read_bytes()
    assert pq.read_table(made).equals(
        pa.concat_tables([SCHEMA.empty_table(), *(each for part in parts for each in part)])
    )


def test_many_parts_and_row_groups_larger_than_a_copied_piece_are_joined(tmp_path: Path) -> None:
    large = pa.table({"bytes": pa.array([np.random.default_rng(0).bytes(9_000_000)])})
    pq.write_table(large, tmp_path / "part")
    with pq.ParquetWriter(tmp_path / "whole", large.schema) as writer:
        for _ in range(40):
            writer.write_table(large)
    assert joined(tmp_path / "made", [tmp_path / "part"] * 40).read_bytes() == (tmp_path / "whole").read_bytes()


def test_parts_of_other_columns_and_parts_that_are_cut_are_refused(tmp_path: Path) -> None:
    whole, other = write(tmp_path / "whole", [row_group(1, 5)]), tmp_path / "other"
    pq.write_table(pa.table({"id": ["u1"]}), other)
    with pytest.raises(InputError, match="other has other columns than"):
        joined(tmp_path / "made", [whole, other])
    for num_bytes in (0, 3, 11, 2_000):
        (tmp_path / "cut").write_bytes(whole.read_bytes()[:num_bytes])
        with pytest.raises(InputError, match=f"cut is no whole Parquet file: {num_bytes:,} bytes"):
            joined(tmp_path / "made", [tmp_path / "cut"])


NUMBERS = {4: 15, 5: 31, 6: 63}
VALUES: st.SearchStrategy[Value] = st.one_of(
    st.sampled_from([Value(1, True), Value(2, False)]),
    st.builds(Value, st.just(3), st.integers(0, 255)),
    *(st.builds(Value, st.just(kind), st.integers(-(2**bits), 2**bits - 1)) for kind, bits in NUMBERS.items()),
    st.builds(Value, st.just(7), st.binary(min_size=8, max_size=8)),
    st.builds(Value, st.just(8), st.binary(max_size=300)),
    st.builds(
        Value, st.sampled_from([9, 10]), st.builds(Elements, st.just((5,)), st.lists(st.integers(-9, 9), max_size=40))
    ),
    st.just(Value(11, Elements((), []))),
    st.builds(Value, st.just(11), st.just(Elements((8, 1), [b"key", 2, b"other", 1]))),
)


@given(
    st.recursive(
        st.dictionaries(st.integers(1, 400), VALUES, max_size=6),
        lambda inner: st.dictionaries(st.integers(1, 40), st.builds(Value, st.just(12), inner), max_size=3),
        max_leaves=8,
    )
)
def test_fields_are_read_as_they_were_written(fields: Fields) -> None:
    written = write_struct(fields)
    assert read_struct(written) == fields
    assert list(read_struct(written)) == list(fields)
    with pytest.raises(ValueError, match="end within a field"):
        read_struct(written[:-1])
