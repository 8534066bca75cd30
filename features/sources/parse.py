"""Columns of a file (text or typed) -> columns of the contract, and a reason for each row that cannot be parsed.

One DuckDB query over an Arrow table; there is no loop over rows in Python.
"""
# pyright: reportAttributeAccessIssue=false

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as kinds

from contracts.errors import InputError
from features.tables.connection import connect
from features.terms.rules import CONTROL_CHARACTERS

UNITS_US = {"s": 1_000_000, "ms": 1_000, "us": 1}
YEAR_1_US, YEAR_10000_US = -62_135_596_800_000_000, 253_402_300_800_000_000
FAR_US = 2**61
KEYS = ("event_id", "user_id", "item_id", "impression_id", "session_id")
IDS = (*KEYS, "title")
TIMES = ("occurred_at", "known_at", "published_at")
NAMES = ("event_id", "impression_id", "session_id")
"""Ids that validate does not check, because they only name and group rows."""
MAX_ID_CHARACTERS = 10_000
"""The longest id allowed. A row with a longer one is rejected early, so that huge fields are not copied."""
EXACT_BELOW = {16: 2**11, 32: 2**24, 64: 2**53}
"""Bits of a float type -> the limit below which every whole number is exact; from there on, two can be equal."""
ZONE = r":[0-9:.,\s]*[A-Za-z+-]"
"""A time zone after a time of day. The hyphens of a date come before any colon, so they do not match."""
SPACED = r"\s+(Z|UTC|GMT|[+-]\d{2}(:?\d{2})?)$"
BLANK = r"^[\s\x{85}\p{Z}]*$"
"""Empty, or only spaces of any script."""
WHOLE = r"\.0+$"
"""The suffix of a whole number that was stored as a float or decimal."""


class Parsed(NamedTuple):
    """Parsed rows, and counts that the report warns about."""

    rows: pa.Table
    num_null_words: dict[str, int]  # our column -> values that are null words; only columns that have any
    num_without_zone: int  # times without a time zone, of rows that were parsed


def parse(raw: pa.Table, time_unit: str, label_threshold: float, null_words: Sequence[str] = ()) -> Parsed:
    """The same rows in the same order: ids as text, at_us, label 0 or 1, and a reason, null if the row was parsed.

    raw: the columns that the source has, under our names. Without `label` every row is a click. null_words: texts that
    stand for a missing value. Raises InputError if a column's type does not fit the column it is mapped to.
    """
    raw = pa.table({name: _readable(name, raw[name]) for name in raw.column_names})
    raw, num_null_words = _without(raw, null_words)
    has = {column.name: column.type for column in raw.schema}
    terms = {name: _identifier(name, has[name]) if name in has else "NULL::VARCHAR" for name in IDS}
    terms["at_us"] = _time("occurred_at", has["occurred_at"], time_unit)
    for name, term in (("published_at", "published_us"), ("known_at", "known_us")):
        terms[term] = _time(name, has[name], time_unit) if name in has else "NULL::BIGINT"
    terms["embedding"] = _embedding(has["embedding"]) if "embedding" in has else "NULL::FLOAT[]"
    terms["number"] = _number("label", has["label"]) if "label" in has else "1.0"
    terms["position"] = _position(has["position"]) if "position" in has else "NULL::INTEGER"
    terms["categories"] = _categories(has["categories"]) if "categories" in has else "NULL::VARCHAR[]"
    terms["without_zone"] = _is_without_zone(has["occurred_at"], time_unit)
    terms["reason"] = _reason(has, terms, [name for name in NAMES if name in has and _has_control(raw[name])])
    query = f"""
        SELECT * EXCLUDE (number, row_number),
            (CASE WHEN number >= {label_threshold!r} THEN 1 WHEN number IS NOT NULL THEN 0 END)::FLOAT AS label
        FROM (SELECT {", ".join(f"{term} AS {name}" for name, term in terms.items())}, row_number FROM raw_rows)
        ORDER BY row_number
    """
    with connect() as connection:
        connection.register("raw_rows", raw.append_column("row_number", pa.array(np.arange(len(raw)))))
        rows = connection.sql(query).to_arrow_table()
    taken = rows["without_zone"].filter(pc.is_null(rows["reason"]))
    return Parsed(rows.drop_columns("without_zone"), num_null_words, pc.sum(taken).as_py() or 0)


def _without(raw: pa.Table, null_words: Sequence[str]) -> tuple[pa.Table, dict[str, int]]:
    """(the table with null words replaced by null, number of them by column)."""
    counts = {}
    for place, name in enumerate(raw.column_names):
        if null_words and _is_text(raw[name].type):
            text = pc.utf8_trim_whitespace(raw[name])
            is_word = pc.is_in(text, value_set=pa.array(null_words, raw[name].type))
            if num := pc.sum(is_word).as_py():
                counts[name] = num
                raw = raw.set_column(place, name, pc.if_else(is_word, pa.scalar(None, raw[name].type), raw[name]))
    return raw, counts


def _is_without_zone(kind: pa.DataType, unit: str) -> str:
    """Whether a time, if it is one, has no zone."""
    if unit != "iso" or (kinds.is_timestamp(kind) and kind.tz):
        return "FALSE"
    if not _is_text(kind):
        return "TRUE"
    return f"NOT ends_with(occurred_at, 'Z') AND NOT regexp_matches(occurred_at, '{ZONE}')"


def _readable(name: str, column: pa.ChunkedArray) -> pa.ChunkedArray:
    """The column in a type that the query supports.

    Raises InputError for float ids, or times in less than 64 bits, that are too large to be exact.
    """
    if isinstance(column.type, pa.BaseExtensionType) or kinds.is_fixed_size_binary(column.type):
        column = _in_digits(column)
    if kinds.is_timestamp(column.type) or kinds.is_date(column.type):
        return _in_us(column) if name in TIMES else column
    stored = column.type
    try:
        column = column.cast(_supported(column.type))
    except pa.ArrowInvalid as error:
        raise InputError(
            f"source.columns.{name}: the column holds {column.type} that is not UTF-8 text. Write it as text."
        ) from error
    if name in KEYS and kinds.is_decimal(column.type):
        return pc.replace_substring_regex(column.cast(pa.string()), WHOLE, "")
    is_coarse = name in TIMES and kinds.is_floating(stored) and stored.bit_width < 64  # steps of 128 s in 2024
    if is_coarse or (name in KEYS and kinds.is_floating(column.type)):
        limit = EXACT_BELOW[stored.bit_width]
        size = pc.abs(column.filter(pc.is_finite(column)))
        largest = pc.max(size).as_py()
        if largest is not None and largest >= limit:
            num_larger = pc.sum(pc.greater_equal(size, float(limit))).as_py()
            raise InputError(
                f"source.columns.{name}: the column holds {stored}, and {num_larger:,} of {len(column):,} values are "
                f"at or beyond {limit:,} (such as {largest!r}), where this type is not exact and two of them can be "
                "equal. Write them as text or whole numbers."
            )
    return column


def _in_us(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Times in microseconds, truncated and not rounded, as times in text are: every file format must give the same row.

    Times out of range (such as nanoseconds labelled as microseconds) are clipped near FAR_US, which is rejected later.
    """
    kind = column.type
    unit = kind.unit if kinds.is_timestamp(kind) else "d" if kinds.is_date32(kind) else "ms"
    size = {**UNITS_US, "d": 86_400_000_000, "ns": 1}[unit]
    whole = column.cast(pa.int32()).cast(pa.int64()) if unit == "d" else column.cast(pa.int64())
    values = whole.fill_null(0).to_numpy()
    us = values // 1_000 if unit == "ns" else values.clip(-FAR_US // size, FAR_US // size) * size
    times = pa.array(us, mask=whole.is_null().to_numpy().astype(bool))
    zone = "UTC" if kinds.is_timestamp(kind) and kind.tz else None
    return pa.chunked_array([times.cast(pa.timestamp("us", zone))])


def _in_digits(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Fixed-size bytes as hexadecimal digits, UUIDs in their usual form; other extension types as their storage type.

    Such bytes are never read as text, even if they happen to be UTF-8: a column must read the same in every file.
    """
    is_uuid = isinstance(column.type, pa.UuidType)
    if isinstance(column.type, pa.BaseExtensionType):
        column = pa.chunked_array([chunk.storage for chunk in column.chunks], column.type.storage_type)
    if not kinds.is_fixed_size_binary(column.type):
        return column
    digits = "lower(hex(bytes))"
    if is_uuid:
        digits = f"regexp_replace({digits}, '(.{{8}})(.{{4}})(.{{4}})(.{{4}})', '\\1-\\2-\\3-\\4-')"
    with connect() as connection:
        connection.register("column_of_bytes", pa.table({"bytes": column.cast(pa.binary())}))
        return connection.sql(f"SELECT {digits} AS digits FROM column_of_bytes").to_arrow_table()["digits"]


def _supported(kind: pa.DataType) -> pa.DataType:
    """Half floats become floats, fixed-size lists lists, bytes text, and a column of nulls text."""
    if kinds.is_null(kind) or kinds.is_binary(kind) or kinds.is_large_binary(kind) or kinds.is_binary_view(kind):
        return pa.string()
    if kinds.is_float16(kind):
        return pa.float32()
    if kinds.is_list(kind) or kinds.is_large_list(kind) or kinds.is_fixed_size_list(kind):
        value = _supported(kind.value_type)
        return pa.large_list(value) if kinds.is_large_list(kind) else pa.list_(value)
    return kind


def _is_text(kind: pa.DataType) -> bool:
    return kinds.is_string(kind) or kinds.is_large_string(kind) or kinds.is_string_view(kind)


def _identifier(name: str, kind: pa.DataType) -> str:
    """An id as text. Empty text and spaces are null. Whole numbers stored as floats lose their ".0"."""
    if _is_text(kind):
        return f"CASE WHEN regexp_matches({name}, '{BLANK}') THEN NULL ELSE {name} END"
    if kinds.is_integer(kind) or kinds.is_boolean(kind):
        return f"{name}::VARCHAR"
    if kinds.is_floating(kind):
        whole = f"TRY_CAST(TRY_CAST({name} AS HUGEINT) AS VARCHAR)"
        is_whole = f"isfinite({name}) AND {name} = trunc({name})"
        return f"CASE WHEN {is_whole} THEN {whole} WHEN isfinite({name}) THEN {name}::VARCHAR END"
    raise _unusable(name, kind, "text or whole numbers")


def _time(name: str, kind: pa.DataType, unit: str) -> str:
    """Microseconds since 1970 in UTC; a time without a zone is UTC. Null unless it is in the years 1 to 9999."""
    if _is_text(kind):
        spaceless = f"regexp_replace(trim({name}), '{SPACED}', '\\1')"
        spaceless = f"regexp_replace({spaceless}, '(:\\d{{2}}),(\\d)', '\\1.\\2')"  # a decimal comma
        zoned = f"coalesce(TRY_CAST(trim({name}) AS TIMESTAMPTZ), TRY_CAST({spaceless} AS TIMESTAMPTZ))"
        us = f"CASE WHEN isfinite({zoned}) THEN epoch_us({zoned}) END" if unit == "iso" else _scaled(name, unit)
    elif kinds.is_timestamp(kind) or kinds.is_date(kind):
        if unit != "iso":
            raise InputError(f"source.time_unit: {unit}, but {name} holds {kind}. Set source.time_unit: iso.")
        us = f"epoch_us({name}::TIMESTAMPTZ)"
    elif kinds.is_integer(kind) or kinds.is_floating(kind) or kinds.is_decimal(kind):
        if unit == "iso":
            raise InputError(f"source.time_unit: iso, but {name} holds {kind}. Set source.time_unit: s, ms or us.")
        us = _scaled(name, unit)
    else:
        raise _unusable(name, kind, "times, numbers or text")
    return f"CASE WHEN {us} >= {YEAR_1_US} AND {us} < {YEAR_10000_US} THEN {us} END"


def _scaled(name: str, unit: str) -> str:
    return f"TRY_CAST(round(TRY_CAST({name} AS DECIMAL(26, 6)) * {UNITS_US[unit]}) AS BIGINT)"


def _number(name: str, kind: pa.DataType) -> str:
    if kinds.is_boolean(kind):
        return f"{name}::INTEGER::DOUBLE"
    if not (_is_text(kind) or kinds.is_integer(kind) or kinds.is_floating(kind) or kinds.is_decimal(kind)):
        raise _unusable(name, kind, "numbers or true and false")
    number = f"TRY_CAST({name} AS DOUBLE)"
    if _is_text(kind):  # only text can hold 'true' and 'false'
        number = f"CASE lower(trim({name})) WHEN 'true' THEN 1.0 WHEN 'false' THEN 0.0 ELSE {number} END"
    return f"CASE WHEN isfinite({number}) THEN {number} END"


def _position(kind: pa.DataType) -> str:
    return f"TRY_CAST({_number('position', kind)} AS INTEGER)"


def _categories(kind: pa.DataType) -> str:
    """A list of categories from one text, texts joined by "|", or a list; empty ones are dropped."""
    if kinds.is_list(kind) or kinds.is_large_list(kind):
        value = kind.value_type.value_type if kinds.is_dictionary(kind.value_type) else kind.value_type
        if not (_is_text(value) or kinds.is_integer(value)):
            raise _unusable("categories", kind, "text, or lists of text or whole numbers")
        values = "categories::VARCHAR[]"
    elif _is_text(kind) or kinds.is_integer(kind):
        values = "string_split(categories::VARCHAR, '|')"
    else:
        raise _unusable("categories", kind, "text, or lists of text or whole numbers")
    return f"list_filter({values}, lambda value: value IS NOT NULL AND value != '')"


def _embedding(kind: pa.DataType) -> str:
    """A list of at least one number, all finite; null for anything else."""
    if kinds.is_list(kind) or kinds.is_large_list(kind):
        values = "TRY_CAST(embedding AS FLOAT[])"
    elif _is_text(kind):
        values = "TRY_CAST(nullif(trim(embedding), '') AS FLOAT[])"
    else:
        raise _unusable("embedding", kind, "lists of numbers")
    sound = f"len({values}) > 0 AND len(list_filter({values}, lambda value: isfinite(value))) = len({values})"
    return f"CASE WHEN {sound} THEN {values} END"


def _has_control(column: pa.ChunkedArray) -> bool:
    """Whether the column may contain control characters. It looks at bytes, which is fast: hardly any log has them."""
    if not (kinds.is_string(column.type) or kinds.is_large_string(column.type)):
        return kinds.is_string_view(column.type)
    for chunk in column.chunks:
        data = np.frombuffer(chunk.buffers()[2] or b"", np.uint8)
        if ((data < 0x20) | (data == 0x7F)).any() or ((data[:-1] == 0xC2) & (data[1:] < 0xA0)).any():
            return True
    return False


def _reason(has: dict[str, pa.DataType], terms: dict[str, str], with_control: Sequence[str]) -> str:
    cases = [
        *[
            f"WHEN regexp_matches({name}, '{CONTROL_CHARACTERS}') THEN '{name} has control characters'"
            for name in with_control
        ],
        *[f"WHEN length({name}) > {MAX_ID_CHARACTERS} THEN 'id too large'" for name in KEYS if _is_text_in(has, name)],
        f"WHEN {_is_absent('occurred_at', has)} THEN 'no time'",
        f"WHEN ({terms['at_us']}) IS NULL THEN 'bad time'",
    ]
    parsed = {"label": "number", "position": "position", "embedding": "embedding"}
    parsed |= {"published_at": "published_us", "known_at": "known_us"}
    for name, term in ((name, terms[term]) for name, term in parsed.items()):
        if name in has:
            cases.append(f"WHEN NOT {_is_absent(name, has)} AND ({term}) IS NULL THEN 'bad {name}'")
    return f"CASE {' '.join(cases)} END"


def _is_text_in(has: dict[str, pa.DataType], name: str) -> bool:
    return name in has and _is_text(has[name])


def _is_absent(name: str, has: dict[str, pa.DataType]) -> str:
    """Whether the value is missing: an empty text, a null, or NaN, which pandas writes for null."""
    if _is_text(has[name]):
        return f"coalesce(trim({name}) = '', true)"
    return f"coalesce(isnan({name}), true)" if kinds.is_floating(has[name]) else f"({name} IS NULL)"


def _unusable(name: str, kind: pa.DataType, wanted: str) -> InputError:
    return InputError(f"source.columns.{name}: the column holds {kind}, not {wanted}. Map another column.")
