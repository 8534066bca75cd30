"""In files of any kind, users who are named are found, and ids that are part of other ids are not."""

import gzip
import json
import sqlite3
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from features.live.spellings import Traces, Users, Wanted
from features.live.traces import PIECE, look_into

WANTED = Wanted(frozenset(["u1", "7", "an id", "é🙂", 'q"uote']))
NEAR = ["u10", "xu1", "u1-2", "u1_", "77", "an idea", "é🙂🙂", "u"]
NAMED = ["u1", "an id", "é🙂", 'q"uote']


def users_in(path: Path, wanted: Wanted) -> Users | None:
    traces = look_into(path, wanted)
    return None if traces is None else traces.named


def _parquet(path: Path, values: list[str], column: str = "user_id", **options: object) -> None:
    pq.write_table(pa.table({"n": range(len(values)), column: values}), path, **options)  # type: ignore[arg-type]


def _arrow(path: Path, values: list[str]) -> None:
    table = pa.table({"n": range(len(values)), "user_id": values})
    with pa.ipc.new_file(str(path), table.schema, options=pa.ipc.IpcWriteOptions(compression="lz4")) as writer:
        for place in range(len(values)):
            writer.write_table(table.slice(place, 1))


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


@pytest.mark.parametrize("write", [_parquet, _arrow, _json, _json_as_is, _text, _npz, _npy, _sqlite, _feast])
def test_each_kind_of_file_names_whom_it_names(tmp_path: Path, write) -> None:
    write(tmp_path / "none", NEAR)
    assert users_in(tmp_path / "none", WANTED) == frozenset()
    for user in NAMED:
        if write is _text and '"' in user:
            continue
        write(tmp_path / "one", [*NEAR, user])
        assert users_in(tmp_path / "one", WANTED) == {user}, user
        (tmp_path / "one").unlink()


@pytest.mark.parametrize("write", [_parquet, _arrow, _json, _npz, _sqlite, _feast])
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


LONG = Wanted(frozenset(["1234567", "ann@shop.org", 'o"neil', "a&b", "x y", "12"]))


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("<tr><td>1234567</td></tr>", "1234567"),
        ('{"user": "1234567 at 168 us"}', "1234567"),
        ('{"first": ["1234567: label 0.0 against 1.0"]}', "1234567"),
        ('{"ids": [7654321, 1234567]}', "1234567"),
        ("user_id,n\n1234567.0,3\n", "1234567"),
        ('{"message": "of\\n1234567\\tgone"}', "1234567"),
        ("1234567/14", "1234567"),
        ("\ufeff1234567;x", "1234567"),
        ("says “1234567”…", "1234567"),
        ('{"user_id": 12}', "12"),
        ("user 12, field 3", "12"),
        ("user_ids=[12, 3]", "12"),
        ('["12"]', "12"),
        ("<td>ann@shop.org</td>", "ann@shop.org"),
        ("/users/ann%40shop.org?k=1", "ann@shop.org"),
        ('{"a": "\\u0061nn\\u0040shop.org"}', "ann@shop.org"),
        ("<td>o&quot;neil</td>", 'o"neil'),
        ("<td>o&#34;neil</td><td>o</td>", 'o"neil'),
        ("<script>{&quot;u&quot;: &quot;o\\&quot;neil&quot;}</script>", 'o"neil'),
        ("<td>a&amp;b</td>", "a&b"),
        ("?u=a%26b&x=1", "a&b"),
        ("?u=x+y", "x y"),
        ("?u=%78%20%79", "x y"),
        ('"%5Cu0078 y"', "x y"),
    ],
)
def test_an_id_is_found_in_text_however_it_is_written(tmp_path: Path, text: str, named: str) -> None:
    for name, content in (("plain", text.encode()), ("packed", gzip.compress(text.encode()))):
        (tmp_path / name).write_bytes(content)
        traces = look_into(tmp_path / name, LONG)
        assert traces is not None
        assert traces.named == {named}


@pytest.mark.parametrize(
    "text",
    [
        "11234567",
        "12345678",
        "1234567.5",
        "0.1234567",
        "x1234567",
        "1234567-8",
        "<td>21</td>",
        "120",
        "0.12",
        "12.5",
        "joann@shop.org",
        "a&bc",
        "xx y",
        "%31%321",
        "\\u0031\\u0032\\u0031",
    ],
)
def test_a_longer_word_that_contains_an_id_is_not_a_match(tmp_path: Path, text: str) -> None:
    (tmp_path / "file").write_text(text)
    traces = look_into(tmp_path / "file", LONG)
    assert traces is not None
    assert traces.named == frozenset()


def test_a_short_number_that_may_be_a_count_is_told_apart(tmp_path: Path) -> None:
    (tmp_path / "report.json").write_text('{"epochs": 12, "rows": 1200}')
    (tmp_path / "page.html").write_text("<td>12</td>")
    for name in ("report.json", "page.html"):
        assert look_into(tmp_path / name, LONG) == Traces(frozenset(), frozenset(["12"]))


def test_text_is_found_at_the_border_of_two_pieces(tmp_path: Path) -> None:
    for shift in range(-9, 3):
        (tmp_path / "log").write_text("." * (PIECE + shift) + " 1234567 " + "." * 50)
        assert users_in(tmp_path / "log", LONG) == {"1234567"}


def test_columns_of_any_name_and_type_are_looked_into(tmp_path: Path) -> None:
    told = "row 1234567: bad"
    tables = {
        "a note": pa.table({"note": ["x", told]}),
        "names": pa.table({"note": pa.array(["x", told]).dictionary_encode()}),
        "lists": pa.table({"notes": pa.array([[], ["x", told]])}),
        "bytes": pa.table({"blob": pa.array([b"\xff\xfe", told.encode()])}),
        "numbers": pa.table({"source_user_id": pa.array([1, 1234567])}),
        "unsigned": pa.table({"user": pa.array([1, 1234567], pa.uint64())}),
        "plain": pa.table({"item_id": ["1234567"]}),
    }
    for name, table in tables.items():
        pq.write_table(table, tmp_path / name)
        assert users_in(tmp_path / name, LONG) == {"1234567"}, name
    pq.write_table(pa.table({"n": [1, 1234567], "m": [12, 12]}), tmp_path / "counts")
    assert look_into(tmp_path / "counts", LONG) == Traces(frozenset(), frozenset(["1234567"]))
    pq.write_table(pa.table({"item_id": ["12", "11234567"], "user_index": [12, 3]}), tmp_path / "others")
    assert look_into(tmp_path / "others", LONG) == Traces()


def test_a_databases_texts_and_numbers_are_looked_into(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "runs.db") as connection:
        connection.execute("CREATE TABLE event_logs (id INTEGER, event TEXT)")
        connection.execute("INSERT INTO event_logs VALUES (12, ?)", (json.dumps({"said": 'u "1234567"\nand o"neil'}),))
    connection.close()
    assert users_in(tmp_path / "runs.db", LONG) == {"1234567", 'o"neil'}
    with sqlite3.connect(tmp_path / "log.db") as connection:
        connection.execute("CREATE TABLE log (user_id INTEGER, item_id TEXT)")
        connection.execute("INSERT INTO log VALUES (12, '1234')")
    connection.close()
    assert look_into(tmp_path / "log.db", LONG) == Traces(frozenset(["12"]))
