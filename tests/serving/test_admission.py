"""Requests are weighed: as many are taken as will be answered in time, whatever the machine."""

import pytest

from serving.answering.explaining import MAX_EXPLAINED
from serving.answering.recommend import RecommendRequest
from serving.answering.refusal import Refusal
from serving.answering.requests import EventsRequest, RankRequest
from serving.http.admission import Admission, weigh


def ranking(num: int, **more: object) -> RankRequest:
    return RankRequest.model_validate({"user_id": "u", "candidates": [str(n) for n in range(num)], **more})


def taken(admission: Admission, request: RankRequest) -> tuple[int, Refusal]:
    """The number of such requests that are admitted at once, and the refusal of the next."""
    held = []
    try:
        while True:
            entered = admission.admitted(request)
            entered.__enter__()
            held.append(entered)
    except Refusal as refusal:
        for each in held:
            each.__exit__(None, None, None)
        assert (admission.num_requests, admission.num_units) == (0, 0)
        return len(held), refusal


def learnt(admission: Admission, request: RankRequest, took_s: float, computed_s: float) -> Admission:
    for _ in range(200):
        admission.learn(request, took_s, computed_s)
    return admission


def test_small_requests_are_taken_up_to_their_number() -> None:
    number, refusal = taken(Admission(16, 1.0, 200), ranking(100))
    assert number == 16
    assert (refusal.status, refusal.retry_after_s) == (429, 1)


def test_of_large_requests_as_many_are_taken_as_end_in_time() -> None:
    large = ranking(1000)
    slow = learnt(Admission(16, 1.0, 200), large, 0.3, 0.15)
    number, refusal = taken(slow, large)
    assert number == 3  # 3 x 0.3 s end within 1 s
    assert "about 0.9 s more" in refusal.reason
    assert taken(slow, ranking(10))[0] == 16  # a small one takes 0.06 s there
    fast = learnt(Admission(16, 1.0, 200), large, 0.03, 0.03)
    assert taken(fast, large)[0] == 16


def test_a_small_request_is_still_taken_beside_large_ones() -> None:
    slow = learnt(Admission(16, 1.0, 200), ranking(1000), 0.4, 0.4)
    with slow.admitted(ranking(1000)), slow.admitted(ranking(1000)):
        with pytest.raises(Refusal), slow.admitted(ranking(1000)):
            pass
        with slow.admitted(ranking(1)):
            assert slow.num_requests == 3


def test_one_alone_is_taken_however_long_it_takes() -> None:
    slow = learnt(Admission(16, 1.0, 200), ranking(1), 60.0, 60.0)
    with slow.admitted(ranking(1000)), pytest.raises(Refusal), slow.admitted(ranking(1)):
        pass
    with slow.admitted(ranking(1000)):
        pass


def test_waiting_for_a_store_is_not_taken_for_work() -> None:
    admission = learnt(Admission(16, 1.0, 200), ranking(1), 1.0, 0.002)
    assert taken(admission, ranking(1))[0] == 16


def test_reasons_and_events_weigh_too() -> None:
    assert weigh(ranking(100, explain=True, k=1), 200) > 4 * weigh(ranking(100), 200)
    assert weigh(ranking(1000, explain=True), 200) == weigh(ranking(1000, explain=True, k=MAX_EXPLAINED), 200)
    events = EventsRequest.model_validate({"events": [{"user_id": "u", "item_id": "i"}] * 1000})
    assert weigh(events, 200) > 30


def test_a_recommendation_weighs_what_it_lets_the_model_rank() -> None:
    asked = RecommendRequest(user_id="u")
    assert weigh(asked, 200) == pytest.approx(4.0)
    assert weigh(asked, 1000) - weigh(asked, 200) == pytest.approx(weigh(ranking(1000), 0) - weigh(ranking(200), 0))
    few, many = learnt(Admission(16, 1.0, 200), ranking(100), 0.05, 0.05), Admission(16, 1.0, 2000)
    many.unit_s = few.unit_s
    assert taken(few, asked)[0] > 2 * taken(many, asked)[0]
