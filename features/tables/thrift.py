"""Thrift's compact protocol, in which Parquet writes its footers: bytes <-> fields by number, without a schema.

A struct that is read and written again has the same bytes, whatever its fields mean.
Source: the Apache Thrift compact protocol encoding.
"""

import struct
from dataclasses import dataclass
from typing import Any, NamedTuple

TRUE, FALSE, BYTE, DOUBLE, BINARY, LIST, SET, MAP, STRUCT = 1, 2, 3, 7, 8, 9, 10, 11, 12
INTEGERS = (4, 5, 6)
"""Numbers of 16, 32 and 64 bits: all are written as a varint."""
FEW = 15
"""Lists shorter than this have their length in the first byte, and fields this near their number."""


class Value(NamedTuple):
    """What a field holds. kind: the type on the wire; of a list its elements are values too."""

    kind: int
    held: Any


class Elements(NamedTuple):
    """A list or a set, or a map as its keys and values in turn. kinds: of the elements; two of a map."""

    kinds: tuple[int, ...]
    values: list[Any]


Fields = dict[int, Value]
"""A struct: field number -> value, in the order of the bytes."""


def read_struct(data: bytes) -> Fields:
    """Decode one struct. Raises ValueError where the bytes are no such struct."""
    reader = _Reader(data)
    try:
        return reader.fields()
    except (IndexError, struct.error) as error:
        raise ValueError(f"{len(data):,} bytes are no struct of Thrift: they end within a field") from error


def write_struct(fields: Fields) -> bytes:
    """The inverse of read_struct."""
    written = bytearray()
    _write_fields(written, fields)
    return bytes(written)


@dataclass
class _Reader:
    data: bytes
    at: int = 0

    def fields(self) -> Fields:
        found, number = {}, 0
        while head := self._byte():
            kind, step = head & 0x0F, head >> 4
            number = number + step if step else _signed(self._varint())
            found[number] = Value(kind, kind == TRUE if kind in (TRUE, FALSE) else self._value(kind))
        return found

    def _value(self, kind: int) -> Any:
        """A value, or an element of a list, in which a truth value takes a byte."""
        if kind in INTEGERS:
            return _signed(self._varint())
        if kind == BINARY:
            return self._take(self._varint())
        if kind == STRUCT:
            return self.fields()
        if kind in (LIST, SET):
            head = self._byte()
            number = self._varint() if head >> 4 == FEW else head >> 4
            return Elements((head & 0x0F,), [self._value(head & 0x0F) for _ in range(number)])
        if kind == MAP:
            number = self._varint()
            kinds = divmod(self._byte(), 16) if number else ()
            return Elements(kinds, [self._value(each) for _ in range(number) for each in kinds])
        if kind in (TRUE, FALSE, BYTE):
            return self._byte()
        if kind == DOUBLE:
            return self._take(8)
        raise ValueError(f"byte {self.at:,} of {len(self.data):,} names type {kind}, which Thrift does not have")

    def _byte(self) -> int:
        self.at += 1
        return self.data[self.at - 1]

    def _take(self, number: int) -> bytes:
        if self.at + number > len(self.data):
            raise IndexError(number)
        self.at += number
        return self.data[self.at - number : self.at]

    def _varint(self) -> int:
        number, shift = 0, 0
        while (byte := self._byte()) & 0x80:
            number, shift = number | (byte & 0x7F) << shift, shift + 7
        return number | byte << shift


def _write_fields(written: bytearray, fields: Fields) -> None:
    last = 0
    for number, value in fields.items():
        if 0 < number - last <= FEW:
            written.append((number - last) << 4 | value.kind)
        else:
            written.append(value.kind)
            _write_varint(written, _zigzag(number))
        if value.kind not in (TRUE, FALSE):
            _write_value(written, value.kind, value.held)
        last = number
    written.append(0)


def _write_value(written: bytearray, kind: int, held: Any) -> None:
    if kind in INTEGERS:
        _write_varint(written, _zigzag(held))
    elif kind == BINARY:
        _write_varint(written, len(held))
        written += held
    elif kind == STRUCT:
        _write_fields(written, held)
    elif kind in (LIST, SET):
        (each,), number = held.kinds, len(held.values)
        written.append(min(number, FEW) << 4 | each)
        if number >= FEW:
            _write_varint(written, number)
        for value in held.values:
            _write_value(written, each, value)
    elif kind == MAP:
        _write_varint(written, len(held.values) // 2)
        if held.kinds:
            written.append(held.kinds[0] << 4 | held.kinds[1])
        for place, value in enumerate(held.values):
            _write_value(written, held.kinds[place % 2], value)
    elif kind == DOUBLE:
        written += held
    else:
        written.append(held)


def _write_varint(written: bytearray, number: int) -> None:
    while number > 0x7F:
        written.append(number & 0x7F | 0x80)
        number >>= 7
    written.append(number)


def _signed(number: int) -> int:
    return number >> 1 ^ -(number & 1)


def _zigzag(number: int) -> int:
    return number << 1 ^ number >> 63
