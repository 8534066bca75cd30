"""What a client may say, and what it may not."""

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from serving.params import ServeParams
from serving.requests import RankRequest, RequestContext, check_limits, max_body_bytes, to_iso, to_microseconds

LIMITS = ServeParams(
    clock="log_end",
    num_golden_requests=1,
    max_candidates=3,
    max_id_length=5,
    max_events=3,
    max_future_s=60,
    log_exposures=False,
    max_exposed=3,
    max_live_rows=3,
    num_threads=1,
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
    escaped = largest.model_dump_json().encode("ascii", "backslashreplace").replace(b"\\U0001f388", b"\\ud83c\\udf88")
    assert len(escaped) <= max_body_bytes(LIMITS)
