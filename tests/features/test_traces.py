"""Whatever a file is, a user whom it names is found, and one whose id is part of another's is not."""

import json
import sqlite3
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from features.traces import Wanted, users_in

WANTED = Wanted(frozenset(["u1", "7", "an id", "é🙂", 'q"uote']))
NEAR = ["u10", "xu1", "u1-2", "u1_", "77", "an idea", "é🙂🙂", "u"]
NAMED = ["u1", "an id", "é🙂", 'q"uote']


def _parquet(path: Path, values: list[str], column: str = "user_id", **options: object) -> None:
    pq.write_table(pa.table({"n": range(len(values)), column: values}), path, **options)  # type: ignore[arg-type]


def _json(path: Path, values: list[str]) -> None:
    path.write_text(json.dumps([{"user_id": value, "label": 7} for value in values]))


def _json_as_is(path: Path, values: list[str]) -> None:
    path.write_text(json.dumps(dict.fromkeys(values, 7), ensure_ascii=False, indent=1))


def _text(path: Path, values: list[str]) -> None:
    path.write_text("".join(f"user {value}, field 7.\n" for value in values))


def _npz(path: Path, values: list[str]) -> None:
    with path.open("wb") as handle:
        np.savez_compressed(handle, numbers=np.arange(7), users=np.array(values))


def _npy(path: Path, values: list[str]) -> None:
    with path.open("wb") as handle:
        np.save(handle, np.array(values))


def _sqlite(path: Path, values: list[str]) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute('CREATE TABLE "live events" (seq INTEGER, user_id TEXT, item_id TEXT)')
        connection.executemany('INSERT INTO "live events" VALUES (7, ?, ?)', [(value, "i77") for value in values])
    connection.close()


def _feast(path: Path, values: list[str]) -> None:
    """As Feast keys its rows: the id with its type and length, among other bytes."""
    keys = [b"\x02\x00\x00\x00user_id\x02\x00\x00\x00" + len(v).to_bytes(4, "little") + v.encode() for v in values]
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE user_history (entity_key BLOB, value BLOB)")
        connection.executemany("INSERT INTO user_history VALUES (?, x'0037')", [(key,) for key in keys])
    connection.close()


@pytest.mark.parametrize("write", [_parquet, _json, _json_as_is, _text, _npz, _npy, _sqlite, _feast])
def test_each_kind_of_file_names_whom_it_names(tmp_path: Path, write) -> None:
    write(tmp_path / "none", NEAR)
    assert users_in(tmp_path / "none", WANTED) == frozenset()
    for user in NAMED:
        if write is _text and '"' in user:
            continue
        write(tmp_path / "one", [*NEAR, user])
        assert users_in(tmp_path / "one", WANTED) == {user}, user
        (tmp_path / "one").unlink()


@pytest.mark.parametrize("write", [_parquet, _json, _npz, _sqlite, _feast])
def test_a_user_whose_id_is_a_number_is_found_where_ids_stand(tmp_path: Path, write) -> None:
    write(tmp_path / "file", [*NEAR, "7"])
    assert users_in(tmp_path / "file", WANTED) == {"7"}


def test_all_users_of_a_large_file_are_found_whichever_row_group_they_are_in(tmp_path: Path) -> None:
    values = [f"u{number}" for number in range(100, 200_000)]
    values[150_000], values[10] = "u1", "7"
    _parquet(tmp_path / "file", values, row_group_size=40_000)
    assert users_in(tmp_path / "file", WANTED) == {"u1", "7"}


def test_a_request_named_after_its_user_names_the_user(tmp_path: Path) -> None:
    _parquet(tmp_path / "near", ["u10/1", "u1/a", "u1", "r/u1/2x"], column="impression_id")
    _parquet(tmp_path / "hit", ["u10/1", "u1/3"], column="impression_id")
    assert users_in(tmp_path / "near", WANTED) == frozenset()
    assert users_in(tmp_path / "hit", WANTED) == {"u1"}


def test_the_text_of_a_row_that_could_not_be_parsed_is_taken_apart(tmp_path: Path) -> None:
    _parquet(tmp_path / "near", ["u10,i1,never", "77;x"], column="raw")
    _parquet(tmp_path / "hit", ["u1,i1,never", '{"user_id": 7, "item_id": "x"}', "an id\tx"], column="raw")
    assert users_in(tmp_path / "near", WANTED) == frozenset()
    assert users_in(tmp_path / "hit", WANTED) == {"u1", "7", "an id"}


def test_numbers_are_no_ids_and_weights_are_not_looked_into(tmp_path: Path) -> None:
    with (tmp_path / "numbers").open("wb") as handle:
        np.save(handle, np.full(5, 7))
    (tmp_path / "weights").write_bytes((99).to_bytes(8, "little") + b'{"u1": 1}' + np.arange(9).tobytes())
    (tmp_path / "empty").write_bytes(b"")
    assert users_in(tmp_path / "numbers", WANTED) == frozenset()
    assert users_in(tmp_path / "weights", WANTED) is None
    assert users_in(tmp_path / "empty", WANTED) == frozenset()


def test_a_damaged_file_is_an_error_and_not_an_absence(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"PAR1 and no more")
    with pytest.raises(pa.ArrowException):
        users_in(tmp_path / "file", WANTED)
