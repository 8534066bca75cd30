"""For any bytes of CSV, every row is written or rejected, and a rejected row has its original text and line."""

import csv
import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from features.sources import delimited
from features.sources.delimited import read_delimited, read_header, read_raw
from features.sources.files import describe
from features.sources.records import Dialect, split
from tests.features.raw_logs import ingest_table, read, refusal

HEADER = "user,item,at,click"
PIECES = st.sampled_from(
    [
        ",",
        "\t",
        ";",
        "a",
        "2024-01-01",
        "1",
        '"',
        '""',
        " ",
        "\u2028",
        "\u2029",
        "\x0b",
        "\x0c",
        "\x85",
        "\x1c",
        "é🙂",
        "\\",
    ]
)
FIELD = st.one_of(
    st.sampled_from(["", "u", "2024-01-01", "1", "0", 'say ""hi""', "no\u2028line", "\x0b", "\x0c\x85", "é🙂"]),
    st.text("ab,\n\r\u2028\x0b\x0c\x85 '", max_size=5).map(lambda text: f'"{text}"'),
    st.lists(PIECES, max_size=3).map(lambda parts: "".join(parts).replace('"', "").replace("\\", "")),
)
ROW = st.lists(FIELD, min_size=1, max_size=5).map(",".join)
END = st.sampled_from(["\n", "\r\n", "\r"])


def slow_records(text: str) -> list[tuple[int, str]]:
    """(line, text) of each record that is not empty, character by character."""
    records, start, line, first, at = [], 0, 1, 1, 0
    quoted, opens = False, True
    while at <= len(text):
        here = text[at] if at < len(text) else ""
        if quoted and here == '"' and text[at + 1 : at + 2] == '"':
            at += 1
        elif here == '"' and (quoted or opens):
            quoted, opens = not quoted, False
        elif here in ("\n", "\r", ""):
            size = 2 if text[at : at + 2] == "\r\n" else 1
            if not quoted:
                if text[start:at]:
                    records.append((first, text[start:at]))
                start, first, opens = at + size, line + 1, True
            line, at = line + 1, at + size - 1
        else:
            opens = here == "," and not quoted
        at += 1
    return records


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(st.tuples(ROW, END), max_size=12), block=st.sampled_from([1, 7, 64, 1 << 20]))
def test_every_record_has_its_true_line_and_text(tmp_path: Path, rows: list[tuple[str, str]], block: int) -> None:
    text = HEADER + "\n" + "".join(row + end for row, end in rows)
    path = tmp_path / "log.csv"
    path.write_bytes(text.encode())
    expected = slow_records(text)[1:]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(delimited, "BLOCK_BYTES", block)
        file = describe(path, "log.csv")
        header = read_header(file)
        assert header is not None
        read = read_delimited(file, header, ["user", "click"])
        texts = read_raw(file, read.header, read.start, read.end)
    found = [*zip(read.line.tolist(), texts, strict=True), *((row.line, row.raw) for row in read.bad)]
    assert sorted(found) == expected
    fields = {line: next(csv.reader(io.StringIO(raw, newline=""))) for line, raw in expected}
    assert all(len(fields[line]) == 4 for line in read.line.tolist())
    assert all(len(fields[row.line]) != 4 for row in read.bad)
    assert read.columns["user"].to_pylist() == [fields[line][0] for line in read.line.tolist()]
    assert read.columns["click"].to_pylist() == [fields[line][3] for line in read.line.tolist()]


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(st.tuples(ROW, END), max_size=10))
def test_rows_in_are_rows_written_and_rejected_whatever_is_in_them(tmp_path: Path, rows: list[tuple[str, str]]) -> None:
    text = f"{HEADER}\na,i,2024-01-01,1\n" + "".join(row + end for row, end in rows)
    (tmp_path / "log.csv").write_bytes(text.encode())
    report = ingest_table(tmp_path / "data", tmp_path / "log.csv")
    records = dict(slow_records(text)[1:])
    rejected, provenance = read(tmp_path / "data" / "rejected"), read(tmp_path / "data" / "provenance")
    assert report["rows_read"] == len(records) == report["rows_written"] + sum(report["dropped"].values())
    assert sorted(row["line"] for row in [*rejected, *provenance]) == sorted(records)
    assert {row["line"]: row["raw"] for row in rejected} == {row["line"]: records[row["line"]] for row in rejected}


@settings(max_examples=200, deadline=None)
@given(parts=st.lists(st.one_of(PIECES, END), max_size=25), cut=st.integers(0, 60))
def test_a_block_is_split_the_same_wherever_it_is_cut(parts: list[str], cut: int) -> None:
    data = "".join(parts).encode()
    for escapes in (False, True):
        dialect = Dialect(b",", escapes)
        whole = split(data, dialect, is_last=True)
        first = split(data[:cut], dialect, is_last=cut >= len(data))
        rest = split(data[first.size :], dialect, is_last=True)
        shifts = {"start": first.size, "end": first.size, "line": first.num_lines}
        for name, shift in shifts.items():
            made = np.concatenate([getattr(first, name), getattr(rest, name) + shift])
            np.testing.assert_array_equal(getattr(whole, name), made)


def test_rows_of_separators_alone_are_rows(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text(f"{HEADER}\na,i,2024-01-01,1\n,,,\n\n,,,\n")
    report = ingest_table(tmp_path / "data", tmp_path / "log.csv")
    assert (report["rows_read"], report["dropped"]) == (3, {"no time": 2})
    assert [(row["line"], row["raw"]) for row in read(tmp_path / "data" / "rejected")] == [(3, ",,,"), (5, ",,,")]


@pytest.mark.parametrize("character", ["\u2028", "\u2029", "\x0b", "\x0c", "\x85", "\x1c", "\x1e"])
@pytest.mark.parametrize("bad", ["b{}c", "b{}c,i,yesterday,1"], ids=["fields", "time"])
def test_no_other_character_is_a_line_end(tmp_path: Path, character: str, bad: str) -> None:
    wrong = bad.format(character)
    (tmp_path / "log.csv").write_text(f"{HEADER}\n{wrong}\nx,y,never,1\na,i,2024-01-01,1\n", encoding="utf-8")
    ingest_table(tmp_path / "data", tmp_path / "log.csv")
    held = [(row["line"], row["raw"]) for row in read(tmp_path / "data" / "rejected")]
    assert held == [(2, wrong), (3, "x,y,never,1")]
    assert [row["line"] for row in read(tmp_path / "data" / "provenance")] == [4]


def test_text_is_unchanged_with_its_line_ends_and_invalid_bytes_in_other_columns(tmp_path: Path) -> None:
    rows = b'a,i,never,1,"two\r\nlines"\r\nb,i,2024-01-01,1,\xff\r\nc,i,never,1,\xff\r\n'
    (tmp_path / "log.csv").write_bytes(HEADER.encode() + b",note\r\n" + rows)
    ingest_table(tmp_path / "data", tmp_path / "log.csv")
    held = [(row["line"], row["raw"]) for row in read(tmp_path / "data" / "rejected")]
    assert held == [(2, 'a,i,never,1,"two\r\nlines"'), (5, "c,i,never,1,\ufffd")]


def test_a_quote_that_is_never_closed_is_named_by_its_line(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text(f'{HEADER}\na,"i\nj",2024-01-01,1\nb,"i,2024-01-01,1\nc,i,2024-01-01,1\n')
    assert "log.csv line 4: a quote is opened and never closed" in refusal(tmp_path, tmp_path / "log.csv")
