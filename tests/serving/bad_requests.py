"""Bodies that a client may send to POST /rank and that cannot be ranked, each with the status that says so."""

import json
from typing import Any, NamedTuple


class Bad(NamedTuple):
    """One bad request: its name, bytes and headers, the status wanted and a word that the answer must hold."""

    name: str
    body: bytes
    status: int
    says: str
    content_type: str | None = "application/json"


def _with(**fields: Any) -> bytes:
    return json.dumps({"user_id": "u", "candidates": ["a", "b"]} | fields).encode()


BAD = [
    Bad("empty body", b"", 400, "user_id"),
    Bad("not JSON", b"{user_id: 1", 400, "JSON"),
    Bad("cut short", b'{"user_id": "u", "candidates": ["a"', 400, "JSON"),
    Bad("an array", b"[]", 400, "object"),
    Bad("null", b"null", 400, "object"),
    Bad("a bare NaN", b"NaN", 400, "object"),
    Bad("not UTF-8", b'{"user_id": "\xff\xfe", "candidates": ["a"]}', 400, "JSON"),
    Bad("a NUL in a user", _with(user_id="a\0b"), 400, "control characters"),
    Bad("a new line in a candidate", _with(candidates=["a\n"]), 400, "control characters"),
    Bad("an escape in what is being read", _with(context={"reading_item_id": "\x1b[1m"}), 400, "control characters"),
    Bad("a key twice", b'{"user_id": "u", "user_id": "v", "candidates": ["a"]}', 400, "twice"),
    Bad("a mark of byte order", b'\xef\xbb\xbf{"user_id": "u", "candidates": ["a"]}', 400, "JSON"),
    Bad(
        "k of a million digits", b'{"user_id": "u", "candidates": ["a"], "k": ' + b"9" * 1_000_000 + b"}", 400, "digits"
    ),
    Bad("k beyond floats", b'{"user_id": "u", "candidates": ["a"], "k": 1e999}', 400, "k"),
    Bad("at with a NUL after it", _with(at="2024-01-01T00:00:00Z\0"), 400, "ISO 8601"),
    Bad("no content type", _with(), 415, "content-type: application/json", None),
    Bad("an empty content type", _with(), 415, "content-type: application/json", ""),
    Bad("a lone surrogate as user", b'{"user_id": "\\ud800", "candidates": ["a"]}', 400, "JSON"),
    Bad("a lone surrogate as candidate", b'{"user_id": "u", "candidates": ["\\udfff"]}', 400, "JSON"),
    Bad("a lone surrogate as key", b'{"user_id": "u", "candidates": ["a"], "\\ud800": 1}', 400, "JSON"),
    Bad("nested without end", b'{"user_id": ' + b"[" * 50_000, 400, "JSON"),
    Bad("no user", b'{"candidates": ["a"]}', 400, "user_id"),
    Bad("an empty user", _with(user_id=""), 400, "user_id"),
    Bad("a number as user", _with(user_id=7), 400, "user_id"),
    Bad("null as user", _with(user_id=None), 400, "user_id"),
    Bad("a huge user", _with(user_id="u" * 10_000), 400, "characters"),
    Bad("no candidates", b'{"user_id": "u"}', 400, "candidates"),
    Bad("an empty list", _with(candidates=[]), 400, "candidates"),
    Bad("a string of candidates", _with(candidates="abc"), 400, "candidates"),
    Bad("an object of candidates", _with(candidates={"a": 1}), 400, "candidates"),
    Bad("a number among candidates", _with(candidates=["a", 1]), 400, "candidates"),
    Bad("null among candidates", _with(candidates=["a", None]), 400, "candidates"),
    Bad("NaN among candidates", b'{"user_id": "u", "candidates": [NaN]}', 400, "candidates"),
    Bad("an empty candidate", _with(candidates=["a", ""]), 400, "candidates"),
    Bad("a huge candidate", _with(candidates=["a", "b" * 10_000]), 400, "characters"),
    Bad("ten thousand candidates", _with(candidates=[str(n) for n in range(10_000)]), 400, "at most"),
    Bad("k of 0", _with(k=0), 400, "k"),
    Bad("a negative k", _with(k=-1), 400, "k"),
    Bad("k as text", _with(k="3"), 400, "k"),
    Bad("half a k", _with(k=1.5), 400, "k"),
    Bad("k true", _with(k=True), 400, "k"),
    Bad("k NaN", b'{"user_id": "u", "candidates": ["a"], "k": NaN}', 400, "k"),
    Bad("k infinite", b'{"user_id": "u", "candidates": ["a"], "k": Infinity}', 400, "k"),
    Bad("at not a time", _with(at="soon"), 400, "ISO 8601"),
    Bad("at a number", _with(at=1_700_000_000), 400, "ISO 8601"),
    Bad("at digits", _with(at="1700000000"), 400, "ISO 8601"),
    Bad("at NaN", b'{"user_id": "u", "candidates": ["a"], "at": NaN}', 400, "ISO 8601"),
    Bad("at without a zone", _with(at="2024-01-01T00:00:00"), 400, "time zone"),
    Bad("at beyond the calendar", _with(at="9999-12-31T23:59:59-12:00"), 400, "ISO 8601"),
    Bad("at before the calendar", _with(at="0001-01-01T00:00:00+12:00"), 400, "ISO 8601"),
    Bad("at without end", _with(at="2" * 5000), 400, "ISO 8601"),
    Bad("a context of an unknown field", _with(context={"article": "a"}), 400, "context.article"),
    Bad("a context that is a text", _with(context="phone"), 400, "context"),
    Bad("a context that is a list", _with(context=["phone"]), 400, "context"),
    Bad("a context that is a number", _with(context=0), 400, "context"),
    Bad("a context that is false", _with(context=False), 400, "context"),
    Bad("a context NaN", b'{"user_id": "u", "candidates": ["a"], "context": NaN}', 400, "context"),
    Bad("a number as device", _with(context={"device": 2}), 400, "context.device"),
    Bad("an empty device", _with(context={"device": ""}), 400, "context.device"),
    Bad("a huge device", _with(context={"device": "d" * 10_000}), 400, "characters"),
    Bad("a subscriber as text", _with(context={"is_subscriber": "yes"}), 400, "context.is_subscriber"),
    Bad("a subscriber as a number", _with(context={"is_subscriber": 1}), 400, "context.is_subscriber"),
    Bad("a number being read", _with(context={"reading_item_id": 7}), 400, "context.reading_item_id"),
    Bad("several items being read", _with(context={"reading_item_id": ["a"]}), 400, "context.reading_item_id"),
    Bad("an empty item being read", _with(context={"reading_item_id": ""}), 400, "context.reading_item_id"),
    Bad("a huge item being read", _with(context={"reading_item_id": "a" * 10_000}), 400, "characters"),
    Bad("a context nested without end", b'{"context": ' + b'{"device": ' * 50_000, 400, "JSON"),
    Bad(
        "a lone surrogate being read",
        b'{"user_id": "u", "candidates": ["a"], "context": {"reading_item_id": "\\ud800"}}',
        400,
        "JSON",
    ),
    Bad("an unknown field", _with(limit=3), 400, "limit"),
    Bad("an emoji as field", _with(**{"🎈": 1}), 400, "Extra"),
    Bad("a body beyond all limits", b'{"user_id": "' + b"u" * 8_000_000 + b'"}', 413, "bytes"),
    Bad("a form", b"user_id=u&candidates=a", 415, "application/json", "application/x-www-form-urlencoded"),
    Bad("a broken form", b"abc", 415, "application/json", "multipart/form-data"),
    Bad("a pickle", b"\x80\x04.", 415, "application/json", "application/vnd.bentoml+pickle"),
    Bad("a text", _with(), 415, "application/json", "text/plain"),
    Bad("UTF-16", json.dumps({}).encode("utf-16"), 415, "UTF-8", "application/json; charset=utf-16"),
    Bad("UTF-8 that says UTF-16", _with(), 415, "UTF-8", 'application/json; boundary=x; Charset="UTF-16"'),
]
