"""What the bytes of a POST may be, and that a hostile body costs little and is answered briefly."""

import json
import time
from typing import Any

import pytest

from serving.answering.refusal import Refusal
from serving.http.body import KINDS, MAX_KEYS, parse, read_message
from serving.params import ServeParams
from tests.serving.limits import RETRIEVAL

LIMITS = ServeParams(
    clock="log_end",
    num_golden_requests=1,
    max_candidates=1000,
    max_id_length=256,
    max_events=1000,
    max_future_s=60,
    log_exposures=False,
    max_exposed=3,
    max_live_rows=3,
    allowed_hosts=[],
    num_threads=1,
    retrieval=RETRIEVAL,
)
RANK, EVENTS = KINDS["/rank"], KINDS["/events"]


def repeated(before: bytes, piece: bytes, after: bytes, max_bytes: int) -> bytes:
    """The largest body of one piece over and over."""
    number = (max_bytes - len(before) - len(after)) // (len(piece) + 1)
    return before + b",".join([piece] * number) + after


HOSTILE = {
    "whole numbers": (RANK, b'{"user_id": "u", "candidates": [', b"1", b"]}"),
    "few whole numbers": (RANK, b'{"user_id": "u", "candidates": [', b"1", b"]}"),
    "keys": (RANK, b'{"user_id": "u", "candidates": ["a"], ', b'"a":1', b"}"),
    "empty objects": (EVENTS, b'{"events": [', b"{}", b"]}"),
    "empty lists": (EVENTS, b'{"events": [', b"[]", b"]}"),
    "brackets in texts": (EVENTS, b'{"events": [', b'"{"', b"]}"),
    "quotes": (EVENTS, b'{"events": ["', rb"\\\"", b'"]}'),
    "events of unknown fields": (EVENTS, b'{"events": [', b'{"x":1}', b"]}"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_the_largest_hostile_body_is_refused_soon_and_briefly(name: str) -> None:
    kind, before, piece, after = HOSTILE[name]
    body = repeated(before, piece, after, 2000 if name.startswith("few") else kind.max_bytes(LIMITS))
    began = time.process_time()
    with pytest.raises(Refusal) as refused:
        read_message(kind, body, LIMITS)
    assert time.process_time() - began < 3  # 18 s and more before, most of it in the answer
    assert len(refused.value.body()) < 1000


def test_an_answer_names_one_error_and_repeats_little_of_what_was_sent() -> None:
    told = {"user_id": "u", "candidates": ["a"]} | {f"{n:->5000}": n for n in range(MAX_KEYS - 2)}
    with pytest.raises(Refusal) as refused:
        read_message(RANK, json.dumps(told).encode(), LIMITS)
    assert refused.value.field
    assert f"{MAX_KEYS - 3} more" in refused.value.reason
    assert len(refused.value.body()) < 1000


def test_what_json_writes_is_read_with_brackets_and_quotes_in_its_texts() -> None:
    ids = [f"{n}" + '[{"\\[{' * 20 for n in range(LIMITS.max_candidates)]
    message = read_message(RANK, json.dumps({"user_id": "[" * 200, "candidates": ids}).encode(), LIMITS)
    assert message.model_dump()["candidates"] == ids


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b'{"a": 1, "a": 1}', "'a' is given twice"),
        (b'{"b": {"a": 1, "a": 2}}', "'a' is given twice"),
        (b'{"a": 1, "\\u0061": 2}', "'a' is given twice"),
        (b"[" * 60, "not valid"),
        (b"\xff", "not UTF-8 at byte 0"),
        (json.dumps({}).encode("utf-32"), "not UTF-8"),
        (b"\xed\xa0\x80", "not UTF-8"),
        (b'"\x00"', "not valid"),
        (b"9" * 5000, "too many digits"),
        (b"[]]", "not valid"),
    ],
)
def test_json_that_readers_read_differently_is_refused(body: bytes, says: str) -> None:
    with pytest.raises(Refusal, match=says):
        parse(body, 64)


def test_depth_beyond_what_python_reads_is_a_refusal() -> None:
    with pytest.raises(Refusal, match="nested too deeply"):
        parse(b"[" * 100_000 + b"]" * 100_000, 10**6)


@pytest.mark.parametrize("value", [{"a": [1, 2.5, None, True, "x"]}, [], "text", 3, None])
def test_any_other_json_is_read_as_it_is(value: Any) -> None:
    assert parse(json.dumps(value).encode(), 64) == value
