"""Valid and invalid requests."""

import copy
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from serving.answering.requests import (
    EVENT_IDS,
    EventIn,
    EventsRequest,
    Message,
    RankRequest,
    RequestContext,
    check_event_limits,
    check_limits,
    max_body_bytes,
    max_events_bytes,
    to_iso,
    to_microseconds,
)
from serving.params import ServeParams
from tests.serving.limits import RETRIEVAL

LIMITS = ServeParams(
    clock="log_end",
    num_golden_requests=1,
    max_candidates=3,
    max_id_length=5,
    max_events=3,
    max_future_s=60,
    log_exposures=False,
    allowed_hosts=[],
    max_exposed=3,
    max_live_rows=3,
    num_threads=1,
    retrieval=RETRIEVAL,
)

moments = st.datetimes(
    datetime(1901, 1, 1),
    datetime(2199, 1, 1),
    timezones=st.integers(-840, 840).map(lambda minutes: timezone(timedelta(minutes=minutes))),
)


@given(moments)
def test_a_time_keeps_its_moment_to_the_microsecond(moment: datetime) -> None:
    at = to_microseconds(moment.isoformat())
    assert datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=at) == moment
    assert to_microseconds(to_iso(at)) == at


def test_z_means_utc() -> None:
    assert to_microseconds("1970-01-01T00:00:01.000002Z") == 1_000_002


@given(st.text(max_size=60))
def test_any_text_is_a_time_or_a_validation_error(text: str) -> None:
    try:
        request = RankRequest(user_id="u", candidates=["a"], at=text)
    except ValidationError:
        return
    assert to_microseconds(request.at) == to_microseconds(text)


def test_a_request_at_the_limits_passes_and_one_beyond_names_the_limit() -> None:
    check_limits(RankRequest(user_id="u" * 5, candidates=["a" * 5, "b", "c"]), LIMITS)
    for request, limit in (
        (RankRequest(user_id="u", candidates=["a", "b", "c", "d"]), "at most 3"),
        (RankRequest(user_id="u" * 6, candidates=["a"]), "at most 5"),
        (RankRequest(user_id="u", candidates=["a" * 6]), "at most 5"),
        (RankRequest(user_id="u", candidates=["a"], context=RequestContext(device="a" * 6)), "at most 5"),
        (RankRequest(user_id="u", candidates=["a"], context=RequestContext(reading_item_id="a" * 6)), "at most 5"),
    ):
        with pytest.raises(ValidationError, match=limit):
            check_limits(request, LIMITS)


def test_every_request_within_the_limits_fits_into_a_body() -> None:
    longest = "\U0001f388" * 5
    context = RequestContext(device=longest, is_subscriber=False, reading_item_id=longest)
    candidates = [f"{n}" + longest[1:] for n in range(3)]
    largest = RankRequest(user_id=longest, candidates=candidates, k=3, context=context)
    check_limits(largest, LIMITS)
    assert len(largest.model_dump_json().encode()) <= max_body_bytes(LIMITS)
    event = EventIn(**dict.fromkeys(EVENT_IDS, longest), occurred_at="2024-01-31T12:00:00.123456+00:00", position=9)
    most = EventsRequest(events=[event] * LIMITS.max_events)
    check_event_limits(most, LIMITS)
    assert len(most.model_dump_json(indent=4).encode()) <= max_events_bytes(LIMITS)


ID_FIELDS = [
    (RankRequest, {"user_id": "u", "candidates": ["a"]}, name)
    for name in ("user_id", "candidates", "context.device", "context.reading_item_id")
] + [(EventsRequest, {"events": [{"user_id": "u", "item_id": "i"}]}, f"events.0.{name}") for name in EVENT_IDS]


@pytest.mark.parametrize("character", ["\0", "\n", "\x1b", "\x7f", "\x85"])
@pytest.mark.parametrize(("kind", "told", "field"), ID_FIELDS, ids=[field for *_, field in ID_FIELDS])
def test_no_id_has_control_characters(kind: type[Message], told: dict[str, Any], field: str, character: str) -> None:
    kind.model_validate(told)
    told = copy.deepcopy(told)
    place, name = told, field.rpartition(".")[2]
    if field.startswith("events"):
        place = told["events"][0]
    elif field.startswith("context"):
        place = told.setdefault("context", {})
    place[name] = [f"a{character}"] if name == "candidates" else f"a{character}"
    with pytest.raises(ValidationError, match="string_pattern_mismatch"):
        kind.model_validate(told)


@pytest.mark.parametrize(
    "text",
    ["2024-01-01T00:00:00Z\0", "2024-01-01T00:00:00Z\0 and more", "2024-01-01\x0000:00:00Z", "2024-01-01🎈00:00:00Z"],
)
def test_a_time_is_written_as_a_time_to_its_end(text: str) -> None:
    with pytest.raises(ValidationError, match="ISO 8601"):
        RankRequest(user_id="u", candidates=["a"], at=text)
    with pytest.raises(ValidationError, match="ISO 8601"):
        EventIn(user_id="u", item_id="i", occurred_at=text)


@pytest.mark.parametrize("label", [True, False, "1", "0.5", None, [1], float("nan")])
def test_a_label_is_a_number(label: object) -> None:
    with pytest.raises(ValidationError, match="label"):
        EventIn.model_validate({"user_id": "u", "item_id": "i", "label": label})


@pytest.mark.parametrize(("told", "label"), [(1, 1.0), (0, 0.0), (0.25, 0.25)])
def test_a_whole_number_is_a_label(told: float, label: float) -> None:
    assert EventIn(user_id="u", item_id="i", label=told).label == label
