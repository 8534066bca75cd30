"""Recommended items are on offer, not seen, scored as by /rank, independent of the future, and recorded as shown."""

import json
from dataclasses import replace

import httpx
import numpy as np
import pytest

from features.encoding.as_of import END_OF_TIME
from serving.answering.offers import STEP_US
from serving.answering.predictor import Predictor
from serving.answering.recommend import RecommendReply, RecommendRequest, recommend
from serving.answering.requests import EventsRequest, RankRequest, to_iso, to_microseconds

pytestmark = [
    pytest.mark.xdist_group("serving"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # BentoML's words about what it imports
]


def recommended(predictor: Predictor, **asked: object) -> RecommendReply:
    """The request in the form in which it is sent."""
    told = {"user_id": predictor.bundle.golden[-1].user_id, "preview": True} | asked
    return RecommendReply.model_validate(recommend(predictor, RecommendRequest.model_validate(told)).reply.model_dump())


def names(reply: RecommendReply) -> list[str]:
    return [item.item_id for item in reply.items]


def test_the_items_are_scored_as_rank_scores_them(predictor: Predictor) -> None:
    for golden in predictor.bundle.golden[::8]:
        at = to_iso(golden.at)
        found = recommended(predictor, user_id=golden.user_id, at=at, k=15)
        assert len(set(names(found))) == 15
        ranked = predictor.rank(RankRequest(user_id=golden.user_id, candidates=names(found), at=at))
        own = {item.item_id: item for item in found.items}
        for item in ranked.items:
            assert own[item.item_id].score == pytest.approx(item.score, abs=1e-6)
            assert own[item.item_id].theme == item.theme
        assert (found.themes, found.history) == (ranked.themes, ranked.history)


def test_without_diversity_the_best_score_is_first(predictor: Predictor) -> None:
    scores = [item.score for item in recommended(predictor, k=20, diversity=0.0).items]
    assert scores == sorted(scores, reverse=True)


def test_nothing_of_the_user_s_history_is_recommended_unless_asked_for(predictor: Predictor) -> None:
    events = predictor.events(predictor.bundle.golden[-1].user_id)
    assert events is not None
    most = predictor.limits.retrieval.num_candidates
    assert not set(names(recommended(predictor, k=most))) & set(events.item_ids)
    assert set(names(recommended(predictor, k=most, exclude_seen=False))) & set(events.item_ids)


def test_only_what_is_on_offer_is_recommended(predictor: Predictor) -> None:
    """By the log: before the request's time the item was seen or published, and shown within retrieval.idle_s."""
    golden, limits = predictor.bundle.golden[0], predictor.limits
    reply = recommended(predictor, at=to_iso(golden.at), k=limits.retrieval.num_candidates)
    table = predictor.store.counters.item_counters
    keys = predictor.store.item_keys(names(reply))
    seen = table.last_seen(keys, golden.at)
    rows = predictor.bundle.index.rows(names(reply))
    published = predictor.bundle.index.catalogue["published_at"].to_numpy()[rows]
    assert (published <= golden.at).all()
    idle_us = (limits.retrieval.idle_s or 0) * 1e6
    fresh = published >= golden.at - limits.retrieval.new_s * 1e6 - STEP_US
    assert (fresh | ((seen != END_OF_TIME) & (seen >= golden.at - idle_us - 2 * STEP_US))).all()


def test_before_the_first_item_nothing_is_recommended(predictor: Predictor) -> None:
    reply = recommended(predictor, at="1990-01-01T00:00:00Z")
    assert (reply.items, reply.cold_start_items, reply.impression_id) == ([], [], None)
    assert reply.cold_start_user


def test_an_unknown_user_is_recommended_popular_and_new_items(predictor: Predictor) -> None:
    reply = recommended(predictor, user_id="nobody at all")
    assert len(reply.items) == 20
    assert {item.source for item in reply.items} <= {"popular", "new"}
    assert reply.cold_start_user
    assert reply.themes == []


def test_the_item_being_read_is_not_recommended(predictor: Predictor) -> None:
    first = names(recommended(predictor))[0]
    assert first not in names(recommended(predictor, context={"reading_item_id": first}, k=100))


def test_later_events_change_no_earlier_list(fresh: Predictor) -> None:
    golden = fresh.bundle.golden[-1]
    at = to_iso(fresh.clock())
    before = recommended(fresh, user_id=golden.user_id, at=at)
    items = names(before)[:3]
    events = [{"user_id": golden.user_id, "item_id": item} for item in items]
    fresh.append(EventsRequest.model_validate({"events": events}))
    assert recommended(fresh, user_id=golden.user_id, at=at) == before
    assert not set(names(recommended(fresh, user_id=golden.user_id))) & set(items)


def test_items_of_events_younger_than_the_lag_are_not_recommended_again(fresh: Predictor) -> None:
    """With history.lag_s the model reads a click only later, but the user remembers it at once."""
    scorer = fresh.bundle.scorer
    lagging = replace(scorer, spec=replace(scorer.spec, history_lag_s=60.0))
    late = replace(fresh, bundle=replace(fresh.bundle, scorer=lagging))
    user = fresh.bundle.golden[-1].user_id
    before = recommended(late, user_id=user)
    first = names(before)[0]
    late.append(EventsRequest.model_validate({"events": [{"user_id": user, "item_id": first}]}))
    after = recommended(late, user_id=user)
    assert after.history.length == before.history.length
    assert first not in names(after)
    assert first in names(recommended(late, user_id=user, exclude_seen=False))
    assert first in names(recommended(late, user_id=user, at=before.at))


def test_offers_requested_for_a_future_time_are_not_reused_when_it_has_come(fresh: Predictor) -> None:
    """A caller may ask for a time some minutes ahead; events until then still count."""
    item, lag_us = fresh.bundle.index.item_ids[0], int(fresh.bundle.scorer.spec.clicks_lag_s * 1e6)
    soon = fresh.clock() + lag_us + 2 * STEP_US
    before = fresh.offering.at(soon)
    events = [{"user_id": "somebody", "item_id": item}]
    fresh.append(EventsRequest.model_validate({"events": events}))
    assert fresh.offering.at(soon).clicks_N[0] == before.clicks_N[0] + 1
    now = fresh.clock()
    assert fresh.offering.at(now) is fresh.offering.at(now)  # a minute that is over is read once


def test_the_list_that_is_answered_is_remembered_as_shown(fresh: Predictor) -> None:
    user = fresh.bundle.golden[-1].user_id
    reply, shown = recommend(fresh, RecommendRequest(user_id=user, k=5))
    assert shown is not None
    assert reply.impression_id == shown.impression_id
    assert [row.item_id for row in shown.rows] == [item.item_id for item in reply.items]
    past = RecommendRequest(user_id=user, k=5, at=to_iso(to_microseconds(reply.at) - 1))
    assert recommend(fresh, past).shown is None
    assert recommend(fresh, RecommendRequest(user_id=user, k=5, preview=True)).shown is None


def test_a_click_with_the_list_s_impression_id_is_its_outcome(keeping: httpx.Client, predictor: Predictor) -> None:
    user = predictor.bundle.golden[3].user_id
    told = keeping.post("/recommend", json={"user_id": user, "k": 3}).json()
    event = {"user_id": user, "item_id": told["items"][1]["item_id"], "impression_id": told["impression_id"]}
    taken = keeping.post("/events", json={"events": [event]})
    assert taken.status_code == 200
    assert taken.json()["events"][0]["fate"] == "new"


def test_over_http_it_answers_as_in_process(server: httpx.Client, predictor: Predictor) -> None:
    golden = predictor.bundle.golden[2]
    asked = {"user_id": golden.user_id, "at": to_iso(golden.at), "k": 7, "diversity": 1}
    answer = server.post("/recommend", json=asked)
    assert answer.status_code == 200
    assert answer.json() == recommended(predictor, **asked, preview=False).model_dump()


BAD = {
    "no user": ({}, "user_id"),
    "candidates": ({"user_id": "u", "candidates": ["a"]}, "candidates"),
    "k of 0": ({"user_id": "u", "k": 0}, "k"),
    "k beyond what is found": ({"user_id": "u", "k": 10**6}, "at most"),
    "k that is a text": ({"user_id": "u", "k": "3"}, "k"),
    "diversity of 2": ({"user_id": "u", "diversity": 2}, "diversity"),
    "diversity below 0": ({"user_id": "u", "diversity": -0.1}, "diversity"),
    "seen that is a text": ({"user_id": "u", "exclude_seen": "no"}, "exclude_seen"),
    "a time without a zone": ({"user_id": "u", "at": "2024-01-01T00:00:00"}, "ISO 8601"),
    "a huge user": ({"user_id": "u" * 300}, "characters"),
    "a huge item being read": ({"user_id": "u", "context": {"reading_item_id": "x" * 300}}, "characters"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_request_gets_a_400_that_says_why(server: httpx.Client, name: str) -> None:
    body, says = BAD[name]
    answer = server.post("/recommend", json=body)
    assert answer.status_code == 400, answer.text[:500]
    assert says in answer.text
    assert answer.json()["error"]


def test_a_nan_as_diversity_is_refused(server: httpx.Client) -> None:
    content = json.dumps({"user_id": "u", "diversity": float("nan")})
    answer = server.post("/recommend", content=content, headers={"content-type": "application/json"})
    assert answer.status_code == 400


def test_similar_items_are_the_nearest_on_offer(server: httpx.Client, predictor: Predictor) -> None:
    index = predictor.bundle.index
    row = int(np.flatnonzero(predictor.offering.at(predictor.clock()).on_offer_N)[0])
    told = server.get(f"/items/{index.item_ids[row]}/similar", params={"k": 5}).json()
    cosine = index.unit_ND.astype(np.float64) @ index.unit_ND[row]
    cosine[row] = -2
    cosine[~predictor.offering.at(predictor.clock()).on_offer_N] = -2
    assert told["item_id"] == index.item_ids[row]
    assert [item["similarity"] for item in told["items"]] == pytest.approx(sorted(cosine)[::-1][:5], abs=1e-5)
    for item in told["items"]:
        assert item["similarity"] == pytest.approx(cosine[index.row_of[item["item_id"]]], abs=1e-5)
        assert item["theme_name"] == predictor.bundle.theme_names[item["theme"]]


def test_items_are_looked_up_in_the_order_given(server: httpx.Client, predictor: Predictor) -> None:
    known = predictor.bundle.index.item_ids[3]
    told = server.get("/items", params={"ids": f"nobody,{known},nobody"}).json()["items"]
    assert [(item["item_id"], item["known"]) for item in told] == [("nobody", False), (known, True)]
    assert told[0] | {"item_id": ""} == {
        "item_id": "", "title": None, "categories": [], "theme": None, "theme_name": None, "known": False
    }  # fmt: skip
    profile = predictor.store.profiles([known])[0]
    assert profile is not None
    assert told[1]["categories"] == profile.categories


@pytest.mark.parametrize(
    ("path", "status", "says"),
    [
        ("/items/nobody/similar", 404, "knows no item"),
        ("/items/a%2Fb/similar", 404, "'a/b'"),
        ("/items/nobody/similar?k=0", 400, "k"),
        ("/items/nobody/similar?k=x", 400, "k"),
        ("/items/nobody/similar?k=99999", 400, "at most"),
        ("/items/nobody/similar?many=3", 400, "many"),
        ("/items/" + "x" * 300 + "/similar", 400, "characters"),
        ("/items", 400, "ids"),
        ("/items?ids=", 400, "ids"),
        ("/items?ids=a,b%00", 400, "control characters"),
        ("/items?ids=" + ",".join(map(str, range(1001))), 400, "at most"),
        ("/items?ids=a&k=3", 400, "k"),
    ],
)
def test_a_lookup_that_fails_says_why(server: httpx.Client, path: str, status: int, says: str) -> None:
    answer = server.get(path)
    assert answer.status_code == status, answer.text[:300]
    assert says in answer.text
    assert answer.json()["error"]
