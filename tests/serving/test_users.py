"""A user's sessions and their themes equal those of a slow reading of the same history; listing of users."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
from pydantic import ValidationError

from serving.answering.predictor import Predictor
from serving.answering.requests import EventsRequest, to_iso
from serving.answering.users import MAX_EVENTS, ThemesReply, ThemesRequest, UsersRequest, user_themes, users
from tests.serving.conftest import is_refusal

pytestmark = pytest.mark.xdist_group("serving")


def themes(predictor: Predictor, user_id: str, at: str | None = None) -> ThemesReply:
    reply = user_themes(predictor, ThemesRequest(user_id=user_id, at=at))
    assert ThemesReply.model_validate(reply.model_dump()) == reply
    return reply


def slowly(predictor: Predictor, user_id: str, at: int) -> list[tuple]:
    """(started, number, theme, hopped, returned) of each session, an event at a time. For items that route alone."""
    assert predictor.bundle.scorer.params.route == "item"
    events, scorer = predictor.events(user_id), predictor.bundle.scorer
    assert events is not None
    sessions: dict[int, list[tuple[int, str]]] = {}
    for item_id, time, session in zip(events.item_ids, events.occurred_at, events.session, strict=True):
        if time < at:
            sessions.setdefault(int(session), []).append((int(time), item_id))
    found, before, last = [], set(), None
    for each in sessions.values():
        routed = [scorer.theme_NT[scorer.index_of[item_id]] for _, item_id in each if item_id in scorer.index_of]
        own = [int(shares.argmax()) for shares in routed if shares.max() > 0]
        theme = None
        if own:
            counts = Counter(own)
            theme = next(theme for theme in reversed(own) if counts[theme] == max(counts.values()))
        hopped = None not in (theme, last) and theme != last
        found.append((to_iso(each[0][0]), len(each), theme, hopped, hopped and theme in before))
        last = last if theme is None else theme
        before.add(last)
    return found


def test_sessions_are_those_of_a_slow_reading(predictor: Predictor) -> None:
    num_hopped = num_returned = 0
    for golden in predictor.bundle.golden:
        reply = themes(predictor, golden.user_id, to_iso(golden.at))
        got = [(each.started_at, each.num_events, each.theme, each.hopped, each.returned) for each in reply.sessions]
        if predictor.events(golden.user_id) is None:
            assert got == []
            continue
        assert got == slowly(predictor, golden.user_id, golden.at)
        assert reply.cold_start_user == (not got)
        num_hopped += sum(each.hopped for each in reply.sessions)
        num_returned += sum(each.returned for each in reply.sessions)
    assert num_hopped > num_returned > 10


def test_the_active_theme_is_that_of_the_newest_session_since_it_began(predictor: Predictor) -> None:
    for golden in predictor.bundle.golden:
        reply = themes(predictor, golden.user_id)
        if reply.active is None:
            continue
        assert reply.active.name == predictor.bundle.theme_names[reply.active.theme]
        named = [each for each in reply.sessions if each.theme is not None]
        assert named[-1].theme == reply.active.theme
        since = [each for each in named if each.started_at >= reply.active.since]
        assert {each.theme for each in since} == {reply.active.theme}
        assert since[0].hopped == (len(since) < len(named))


def test_events_are_the_newest_in_order_and_of_before_the_time(predictor: Predictor) -> None:
    golden = predictor.bundle.golden[0]
    whole = themes(predictor, golden.user_id)
    times = [event.occurred_at for event in whole.events]
    assert times == sorted(times)
    assert len(times) == min(MAX_EVENTS, sum(each.num_events for each in whole.sessions))
    middle = times[len(times) // 2]
    past = themes(predictor, golden.user_id, middle)
    assert past.events == [event for event in whole.events if event.occurred_at < middle][-MAX_EVENTS:]
    assert past.sessions[0] == whole.sessions[0]


def test_an_unknown_user_has_no_themes_and_a_long_id_is_refused(predictor: Predictor) -> None:
    reply = themes(predictor, "nobody at all")
    assert reply.cold_start_user
    assert (reply.current, reply.active, reply.sessions, reply.events) == ([], None, [], [])
    with pytest.raises(ValidationError, match="at most 256 characters"):
        themes(predictor, "u" * 257)


def test_a_model_without_themes_still_has_sessions(predictor: Predictor, data: Path) -> None:
    from serving.bundle.loaded import read_json
    from serving.bundle.scorer import Scorer
    from training.model.build import load_model

    scorer = predictor.bundle.scorer
    model = load_model("din", data / "weights" / "din.safetensors", read_json(data / "weights" / "model.json"))
    of_din = Scorer.of(model, scorer.params, scorer.spec, scorer.index_of)
    without = replace(predictor, bundle=replace(predictor.bundle, scorer=of_din, theme_names=[]))
    user = predictor.bundle.golden[0].user_id
    reply, of_mos = themes(without, user), themes(predictor, user)
    assert [each.started_at for each in reply.sessions] == [each.started_at for each in of_mos.sessions]
    assert {(each.theme, each.name, each.hopped) for each in reply.sessions} == {(None, None, False)}
    assert (reply.current, reply.active) == ([], None)


def test_clicks_in_a_new_session_turn_the_active_theme(house: Path, predictor: Predictor) -> None:
    data = house / "data" / "simulator"
    opened = Predictor.open(data / "bundle", house / ".state" / "simulator" / "feast", data / "feature_snapshot")
    user = opened.bundle.golden[1].user_id
    before = themes(opened, user)
    assert before.active is not None
    scorer = opened.bundle.scorer
    other = [item for item, index in scorer.index_of.items() if scorer.theme_NT[index].argmax() != before.active.theme]
    theme = int(scorer.theme_NT[scorer.index_of[other[0]]].argmax())
    clicked = [item for item in other if scorer.theme_NT[scorer.index_of[item]].argmax() == theme][:3]
    opened.append(EventsRequest.model_validate({"events": [{"user_id": user, "item_id": item} for item in clicked]}))
    after = themes(opened, user)
    opened.store.tail.close()
    assert after.active is not None
    assert (after.active.theme, after.active.since) == (theme, after.sessions[-1].started_at)
    assert after.sessions[-1].hopped
    assert [event.item_id for event in after.events[-3:]] == clicked
    assert len(after.sessions) == len(before.sessions) + 1


def test_users_are_found_by_a_prefix_of_their_id(predictor: Predictor) -> None:
    everybody = users(predictor, UsersRequest(limit=1000)).users
    assert len(everybody) > 50
    assert {golden.user_id for golden in predictor.bundle.golden} <= set(everybody)
    prefix = everybody[0][:-1]
    assert users(predictor, UsersRequest(prefix=prefix, limit=1000)).users == [
        user for user in everybody if user.startswith(prefix)
    ]
    assert users(predictor, UsersRequest(limit=3)).users == everybody[:3]
    assert users(predictor, UsersRequest(prefix="no such user")).users == []


def test_themes_and_users_are_answered_over_http(server: httpx.Client, predictor: Predictor) -> None:
    golden = predictor.bundle.golden[0]
    answer = server.get(f"/users/{golden.user_id}/themes", params={"at": to_iso(golden.at)})
    assert answer.status_code == 200
    assert answer.json() == themes(predictor, golden.user_id, to_iso(golden.at)).model_dump()
    odd = server.get("/users/a%2Fb%20%F0%9F%8E%88/themes").json()
    assert (odd["user_id"], odd["cold_start_user"]) == ("a/b 🎈", True)
    assert server.get("/users", params={"limit": 2}).json() == {"users": users(predictor, UsersRequest(limit=2)).users}


@pytest.mark.parametrize(
    ("path", "field"),
    [
        ("/users?limit=0", "limit"),
        ("/users?limit=many", "limit"),
        ("/users?like=u", "like"),
        ("/users?prefix=a&prefix=b", "prefix"),
        ("/users//themes", "user_id"),
        ("/users/u/themes?at=soon", "at"),
        ("/users/u/themes?user_id=v", "user_id"),
        (f"/users/{'u' * 300}/themes", "user_id"),
    ],
)
def test_an_invalid_parameter_of_a_query_is_named(server: httpx.Client, path: str, field: str) -> None:
    answer = server.get(path)
    assert answer.status_code == 400
    assert is_refusal(answer)
    assert answer.json()["error"]["field"] == field
