"""Bytes of a delimited file, block by block -> where each record begins and ends, and on which line it begins.

A record ends at a line end (LF, CRLF or CR alone; no other character ends a line) outside quotes. A quote opens a field
only as its first character; inside, two quotes stand for one, and with Spark's escape a backslash makes the next
character text. DuckDB's read_csv is not enough here: it does not report the position of a valid row (file_row_number is
refused for CSV), it accepts a row with too many fields or text after a closing quote and drops that text, and its byte
offsets are off by one after CRLF.
"""

import re
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Int64 = npt.NDArray[np.int64]

QUOTE, BACKSLASH, LF, CR = b'"'[0], b"\\"[0], b"\n"[0], b"\r"[0]


class Dialect(NamedTuple):
    """How fields are separated and quoted."""

    delimiter: bytes  # one byte
    escapes: bool  # a backslash makes the character after it text


class Block(NamedTuple):
    """The complete records of a block, in order. Bytes after the last one belong to the next block."""

    start: Int64  # where each begins
    end: Int64  # where its text ends, before the line end
    line: Int64  # the line, from 0, on which it begins
    num_lines: int  # of all the records
    size: int  # bytes of all the records


def split(data: bytes, dialect: Dialect, is_last: bool) -> Block:
    """Find the complete records. data: starts at a record. is_last: the file ends with it."""
    ends = _line_ends(data, is_last)
    is_end = np.ones(len(ends), bool)
    last = _join_lines(data, ends, is_end, _record_of(dialect), _doubtful(data, ends, dialect), is_last)
    ends, is_end = ends[:last], is_end[:last]
    record_ends = ends[is_end]
    start = np.r_[0, record_ends][: len(record_ends)].astype(np.int64)
    line = np.r_[0, np.flatnonzero(is_end) + 1][: len(record_ends)].astype(np.int64)
    return Block(start, _text_ends(data, start, record_ends), line, last, int(record_ends[-1]) if last else 0)


def first_record(data: bytes, dialect: Dialect, is_last: bool) -> tuple[int, int] | None:
    """(bytes, lines) of the first record with its line end; None if it is incomplete."""
    match = _record_of(dialect).match(data)
    if not match or (match.end() == len(data) and not is_last):
        return None
    return match.end(), len(_line_ends(data[: match.end()], is_last=True))


def escapes(data: bytes, delimiter: bytes) -> bool:
    r"""Whether quotes are escaped as \", as Spark does: one is where no quote can end a field, or one is unpaired."""
    if b'\\"' not in data:
        return False
    d = re.escape(delimiter)
    if re.search(rb"(?:^|[\r\n]|" + d + rb')"[^"\r\n]*\\"(?!' + d + rb'|[\r\n"]|\Z)', data):
        return True
    at_the_end = re.compile(rb"(?:^|" + d + rb')"[^"]*\\""(?:' + d + rb"|$)")
    at = -1
    while (at := data.find(b'\\""', at + 1)) >= 0:
        start, end = (max(data.rfind(each, 0, at) for each in (b"\n", b"\r")) + 1, data.find(b"\n", at))
        line = data[start : end if end >= 0 else len(data)].rstrip(b"\r")
        if line.count(b'"') % 2 and at_the_end.search(line):
            return True
    return False


def _record_of(dialect: Dialect) -> re.Pattern[bytes]:
    """A pattern of one record; its group is the line end. It is possessive throughout, so it never backtracks."""
    d = re.escape(dialect.delimiter)
    taken = rb"|\\." if dialect.escapes else b""
    free = rb"(?:[^\r\n\\" + d + rb"]" + taken + rb")*+" if dialect.escapes else rb"[^\r\n" + d + rb"]*+"
    quoted = rb'"(?:[^"' + (rb"\\" if dialect.escapes else b"") + rb"]" + taken + rb'|"")*+"' + free
    field = rb"(?>" + quoted + rb'|(?!")' + free + rb")"
    return re.compile(field + rb"(?:" + d + field + rb")*+(\r\n|[\r\n]|\Z)", re.DOTALL)


def _line_ends(data: bytes, is_last: bool) -> Int64:
    """The position after each line end, and the end of a file that does not end with one."""
    content = np.frombuffer(data, np.uint8)
    at = content == LF
    if b"\r" in data:
        returns = content == CR
        returns[:-1] &= ~at[1:]
        returns[-1] &= is_last  # a line feed may follow
        at |= returns
    ends = np.flatnonzero(at) + 1
    if is_last and data and (not len(ends) or ends[-1] != len(data)):
        ends = np.r_[ends, len(data)]
    return ends


def _doubtful(data: bytes, ends: Int64, dialect: Dialect) -> Int64:
    """Lines, in order, in which quotes do not simply enclose whole fields, or with escapes: their record may go on.

    Simply: each quote in turn opens a field as its first character or closes it as its last.
    """
    content = np.frombuffer(data, np.uint8)
    found = []
    if dialect.escapes and b"\\" in data:
        found.append(np.searchsorted(ends, np.flatnonzero(content == BACKSLASH), side="right"))
    if b'"' in data:
        at = np.flatnonzero(content == QUOTE)
        up_to = np.r_[0, np.searchsorted(at, ends), len(at)]
        counts = np.diff(up_to)  # quotes of each line, and after the last line end
        line = np.repeat(np.arange(len(counts)), counts)
        place = np.arange(len(at)) - np.repeat(up_to[:-1], counts)
        is_border = np.zeros(256, bool)
        is_border[[dialect.delimiter[0], LF, CR]] = True
        opens = is_border[content[np.maximum(at - 1, 0)]] | (at == 0)
        closes = is_border[content[np.minimum(at + 1, len(content) - 1)]] | (at == len(content) - 1)
        is_last = place == np.repeat(counts, counts) - 1
        found.append(line[np.where(place % 2 == 0, ~opens | is_last, ~closes)])
    return np.unique(np.concatenate(found)) if found else np.zeros(0, np.int64)


def _join_lines(
    data: bytes, ends: Int64, is_end: npt.NDArray[np.bool_], record: re.Pattern[bytes], doubtful: Int64, is_last: bool
) -> int:
    """Mark line ends inside quotes as no record ends in is_end; returns how many lines belong to complete records."""
    done = 0
    for line in doubtful.tolist():
        start = int(ends[line - 1]) if line else 0
        if start < done:
            continue
        match = record.match(data, start)
        if not match or (match.end() == len(data) and not is_last and match[1] not in (b"\n", b"\r\n")):
            return line  # an escaped line feed ends no record, and a CR at the end may be half of a CRLF
        done = match.end()
        is_end[line : np.searchsorted(ends, done)] = False
    return len(ends)


def _text_ends(data: bytes, start: Int64, record_ends: Int64) -> Int64:
    content = np.frombuffer(data, np.uint8)
    end = record_ends.copy()
    for ending in (LF, CR) if len(end) else ():  # CRLF is both
        end -= (end > start) & (content[end - 1] == ending)
    return end
