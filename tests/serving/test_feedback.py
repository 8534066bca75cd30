"""Posted events change the next ranking once; shown rankings are recorded, and outcomes are joined to them."""

import re
import sys
import time
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import httpx
import numpy as np
import pytest
from pydantic import ValidationError

from features.online.store import StaleStoreError
from features.sealed.event import OUTCOME
from serving import ask
from serving.answering.feedback import keep
from serving.answering.predictor import Predictor
from serving.answering.refusal import of_validation
from serving.answering.remembering import Remembering
from serving.answering.requests import (
    EventsReply,
    EventsRequest,
    RankReply,
    RankRequest,
    RequestContext,
    to_iso,
    to_microseconds,
)
from serving.watching import metrics
from tests.serving.conftest import opened_in

pytestmark = pytest.mark.xdist_group("serving")


def rank(predictor: Predictor, preview: bool = True, **changes: object) -> RankReply:
    golden = predictor.bundle.golden[0]
    asked = {"user_id": golden.user_id, "candidates": golden.candidates, "preview": preview}
    return predictor.rank(RankRequest.model_validate(asked | changes))


def post(predictor: Predictor, *events: dict) -> EventsReply:
    return predictor.append(EventsRequest.model_validate({"events": list(events)}))


def scores(reply: RankReply) -> dict[str, float]:
    return {item.item_id: item.score for item in reply.items}


def test_a_click_changes_the_next_ranking_and_is_the_newest_event(fresh: Predictor) -> None:
    golden = fresh.bundle.golden[0]
    before = rank(fresh)
    reply = post(fresh, {"user_id": golden.user_id, "item_id": golden.candidates[0]})
    assert reply.num_new == 1
    after = rank(fresh)
    assert after.history.length == before.history.length + 1
    assert before.at < (after.history.newest_event_at or "") < after.at
    assert scores(after) != scores(before)
    assert rank(fresh, at=before.at).history.length == before.history.length


def test_a_show_that_was_not_clicked_counts_and_extends_no_history(fresh: Predictor) -> None:
    golden = fresh.bundle.golden[0]
    item = golden.candidates[0]
    before = rank(fresh)
    post(fresh, {"user_id": golden.user_id, "item_id": item, "label": 0})
    assert rank(fresh).history.length == before.history.length
    key, end = fresh.store.item_key(item), fresh.store.log_end
    shows, clicks = fresh.store.counters.item_counters.read([key], end)
    logged = fresh.store.live.logged.item_counters.read([key], end)
    assert (shows[0] - logged[0][0], clicks[0] - logged[1][0]) == (1, 0)


def test_an_event_sent_twice_counts_once(fresh: Predictor) -> None:
    golden = fresh.bundle.golden[0]
    event = {"user_id": golden.user_id, "item_id": golden.candidates[0], "event_id": "e1"}
    first, second = post(fresh, event, event), post(fresh, event)
    assert [each.fate for each in first.events] == ["new", "repeated"]
    assert (second.num_new, second.events[0].fate) == (0, "repeated")
    assert rank(fresh).history.length == rank(fresh, at=first_at(fresh)).history.length + 1


def first_at(predictor: Predictor) -> str:
    """The time before any live event."""
    return datetime.fromtimestamp(predictor.store.logged_end / 1e6, UTC).isoformat()


def test_a_bad_event_is_named_and_none_of_its_request_is_kept(fresh: Predictor) -> None:
    golden = fresh.bundle.golden[0]
    good = {"user_id": golden.user_id, "item_id": golden.candidates[0]}
    future = f"{datetime.fromtimestamp(time.time() + 10**6, UTC):%Y-%m-%dT%H:%M:%SZ}"
    for bad, said in (
        ({"occurred_at": "1980-01-01T00:00:00Z"}, "events.1: occurred_at"),
        ({"occurred_at": future}, "lies in the future"),
        ({"item_id": "a\tb"}, "Ids have no control characters"),
    ):
        with pytest.raises(ValidationError) as error:
            post(fresh, good, good | bad)
        assert said in of_validation(error.value).reason
    assert fresh.store.tail.newest_seq() == 0
    limits = fresh.limits.max_events
    with pytest.raises(ValidationError, match=f"at most {limits} events"):
        post(fresh, *[good] * (limits + 1))


def test_an_event_without_a_time_or_a_name_is_another_each_time_it_is_sent(fresh: Predictor) -> None:
    event = {"user_id": fresh.bundle.golden[0].user_id, "item_id": fresh.bundle.golden[0].candidates[0]}
    assert post(fresh, event, event).num_new == 2
    assert post(fresh, event).num_new == 1


@pytest.mark.parametrize(
    ("other", "differs"),
    [
        ({"item_id": "another"}, ["item_id"]),
        ({"label": 0}, ["label"]),
        ({"occurred_at": "2024-01-02T00:00:00Z"}, ["occurred_at"]),
        ({"position": 3, "session_id": "s"}, ["position", "session_id"]),
        ({"impression_id": "of a request"}, ["impression_id"]),
        ({}, []),
        ({"occurred_at": None}, []),
        ({"occurred_at": "2024-01-01T01:00:00+01:00", "label": 1}, []),
    ],
)
def test_an_event_id_with_other_content_is_a_conflict_that_says_what_differs(
    fresh: Predictor, other: dict, differs: list[str]
) -> None:
    user, item = fresh.bundle.golden[0].user_id, fresh.bundle.golden[0].candidates[0]
    event = {"user_id": user, "item_id": item, "occurred_at": "2024-01-01T00:00:00Z", "event_id": "e1"}
    first = post(fresh, event)
    kept = fresh.store.tail.since(0)
    again = post(fresh, event | other)
    assert (first.num_new, again.num_new) == (1, 0)
    assert (again.events[0].fate, again.events[0].differs) == ("conflict" if differs else "repeated", differs)
    renamed = {"event_id": "e2"}
    both = post(fresh, event | renamed, event | other | renamed)
    if "occurred_at" not in other or other["occurred_at"]:
        assert [each.fate for each in both.events] == ["new", "conflict" if differs else "repeated"]
        assert both.events[1].differs == differs
    assert fresh.store.tail.since(0)[: len(kept)] == kept


def test_an_outcome_sent_twice_with_other_details_is_not_a_conflict(fresh: Predictor) -> None:
    """A recorded show has our event_id, not the caller's, so a show and its click may differ."""
    golden = fresh.bundle.golden[0]
    reply = rank(fresh, preview=False, k=1)
    event = {"user_id": golden.user_id, "item_id": reply.items[0].item_id, "impression_id": reply.impression_id}
    fates = [post(fresh, event | more).events[0].fate for more in ({"label": 0}, {}, {"event_id": "e"})]
    assert fates == ["repeated", "new", "repeated"]


def test_make_ask_records_a_ranking_only_with_keep(
    house: Path, fresh: Predictor, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(house)
    for arguments, num_kept in (["--k", "3"], 0), (["--k", "3", "--keep"], 3):
        monkeypatch.setattr(sys, "argv", ["ask", *arguments])
        ask.main()
        assert "now in " in capsys.readouterr().out
        assert len(fresh.store.tail.since(0)) == num_kept


def test_two_users_may_use_the_same_impression_id_but_not_the_same_event_id(fresh: Predictor) -> None:
    item = fresh.bundle.golden[0].candidates[0]
    events = [{"user_id": user, "item_id": item, "impression_id": "home-feed"} for user in ("u1", "u2")]
    assert post(fresh, *events).num_new == 2
    assert len({event.impression_id for _, event in fresh.store.tail.since(0)}) == 2
    named = [event | {"event_id": "e1"} for event in events]
    assert post(fresh, named[0]).num_new == 1
    for request in ([events[0], named[1]], [named[0], named[1]]):
        with pytest.raises(ValidationError, match=r"events\.1: event_id 'e1' is that of another user's event"):
            post(fresh, *request)
    assert len(fresh.store.tail.since(0)) == 3


def test_an_outdated_predictor_raises_before_it_takes_or_shows_anything(fresh: Predictor) -> None:
    golden = fresh.bundle.golden[0]
    post(fresh, {"user_id": golden.user_id, "item_id": golden.candidates[0]})
    fresh.store.tail.prune(fresh.store.tail.newest_seq())
    with pytest.raises(StaleStoreError):
        post(fresh, {"user_id": golden.user_id, "item_id": golden.candidates[0]})
    with pytest.raises(StaleStoreError):
        rank(fresh, preview=False)
    assert fresh.store.tail.since(0) == []


def test_an_event_with_wall_clock_time_on_an_old_log_is_refused_and_does_not_move_the_clock(fresh: Predictor) -> None:
    """serve.clock is log_end, years ago. Events at the service's time are accepted, also if slightly ahead of it."""
    golden = fresh.bundle.golden[0]
    before = rank(fresh)
    today = datetime.now(UTC).isoformat()
    with pytest.raises(ValidationError, match=r"lies in the future: the newest that is taken now is 20.*serve\.clock"):
        post(fresh, {"user_id": "stranger", "item_id": "x", "occurred_at": today})
    ahead = to_iso(fresh.clock() + int(fresh.limits.max_future_s * 1e6) - 60_000_000)
    assert post(fresh, {"user_id": "stranger", "item_id": "x", "occurred_at": ahead}).num_new == 1
    after = rank(fresh)
    assert to_microseconds(after.at) - to_microseconds(before.at) < 60_000_000
    assert [item.item_id for item in rank(fresh, at=before.at).items] == [item.item_id for item in before.items]
    assert after.history == before.history
    assert rank(opened_in_again(fresh), user_id=golden.user_id).at > after.at


def opened_in_again(predictor: Predictor) -> Predictor:
    """As another worker, or this one after a restart, would open it."""
    state = Path(predictor.store.feast.config.online_store.path).parent  # pyright: ignore[reportAttributeAccessIssue]
    return Predictor.open(state.parents[2] / "data" / "simulator" / "bundle", state.parent / "feast")


def test_at_most_max_exposed_rows_of_a_ranking_are_stored_and_clicks_below_them_count(fresh: Predictor) -> None:
    items = sorted(fresh.bundle.scorer.index_of)[: fresh.limits.max_exposed + 15]
    reply = rank(fresh, preview=False, candidates=items)
    rows = [event for _, event in fresh.store.tail.since(0)]
    assert [row.item_id for row in rows] == [item.item_id for item in reply.items[: fresh.limits.max_exposed]]
    below = {"user_id": reply.user_id, "item_id": reply.items[-1].item_id, "impression_id": reply.impression_id}
    assert [each.fate for each in post(fresh, below, below).events] == ["new", "repeated"]
    assert fresh.store.tail.since(0)[-1][1].occurred_at == rows[0].occurred_at


def test_at_the_limit_rankings_have_no_impression_id_and_clicks_are_still_stored(fresh: Predictor) -> None:
    limits = fresh.limits.model_copy(update={"max_live_rows": 30})
    manifest = fresh.bundle.manifest.model_copy(update={"limits": limits})
    small = replace(fresh, bundle=replace(fresh.bundle, manifest=manifest))
    items = sorted(small.bundle.scorer.index_of)[:20]
    named = [rank(small, preview=False, candidates=items) for _ in range(4)]
    assert [reply.impression_id is not None for reply in named] == [True, True, False, False]
    assert [len(reply.items) for reply in named] == [20] * 4
    assert small.store.live.num_events == 40
    outcome = {"user_id": named[0].user_id, "item_id": items[0], "impression_id": named[0].impression_id}
    own = {"user_id": "u", "item_id": items[0]}
    assert post(small, outcome, own).num_new == 2
    assert small.store.live.num_events == 42


def test_rankings_that_are_not_recorded_are_logged_once_and_counted(
    fresh: Predictor, caplog: pytest.LogCaptureFixture
) -> None:
    limits = fresh.limits.model_copy(update={"max_live_rows": 1})
    small = replace(
        fresh, bundle=replace(fresh.bundle, manifest=fresh.bundle.manifest.model_copy(update={"limits": limits}))
    )
    post(small, {"user_id": "u", "item_id": "x"})
    remembering = Remembering()
    asked = RankRequest(user_id="u", candidates=["x"])
    before = metrics.exposition().decode()
    for request in (asked, asked, asked.model_copy(update={"preview": True})):
        remembering.look(small, request)
    (said,) = [record.getMessage() for record in caplog.records]
    assert said.startswith("1 live rows are in memory, and serve.max_live_rows is 1: rankings are no longer recorded")
    remembering.show(small)
    told = metrics.exposition().decode()
    for line in ("live_rows 1.0", "live_rows_limit 1.0", f"tail_bytes {float(small.store.tail.size())}"):
        assert f"\nleitmotif_{line}\n" in told
    over = [float(re.search("\nleitmotif_rankings_over_limit_total (.+)\n", text)[1]) for text in (before, told)]
    assert over[1] - over[0] == 2


def test_an_event_that_cites_a_ranking_of_a_lost_store_does_not_fail_the_others(fresh: Predictor, house: Path) -> None:
    reply = rank(fresh, preview=False, k=3)
    cited = {"user_id": reply.user_id, "item_id": reply.items[1].item_id, "impression_id": reply.impression_id}
    fresh.store.tail.close()
    for left in (house / "live").glob("simulator.db*"):
        left.unlink()
    again = opened_in(house)
    fates = [[each.fate for each in post(again, cited, {"user_id": "u", "item_id": "x"}).events] for _ in range(2)]
    assert fates == [["unlinked", "new"], ["repeated", "new"]]
    history = again.store.history(reply.user_id)
    assert history is not None
    assert history.item_ids[-1] == cited["item_id"]
    assert abs(int(history.occurred_at[-1]) - again.clock()) < 60_000_000
    again.store.tail.close()


def test_a_vanished_store_is_logged_and_its_events_are_no_longer_counted(
    fresh: Predictor, house: Path, caplog: pytest.LogCaptureFixture
) -> None:
    golden = fresh.bundle.golden[0]
    before = rank(fresh)
    post(fresh, {"user_id": golden.user_id, "item_id": golden.candidates[0]})
    for left in (house / "live").glob("simulator.db*"):
        left.unlink()
    with pytest.raises(StaleStoreError, match="lost, emptied or replaced"):
        rank(fresh)
    assert "was taken away while it was in use" in caplog.text
    again = opened_in(house)
    assert rank(again, at=before.at).items == before.items
    assert again.clock() >= to_microseconds(before.at)
    assert again.store.live.num_events == 0
    again.store.tail.close()


def test_a_ranking_that_is_recorded_in_a_new_store_does_not_hide_that_the_old_one_was_lost(
    fresh: Predictor, house: Path
) -> None:
    """The recording thread may be the first to see it; the next request still has to open the store again."""
    golden = fresh.bundle.golden[0]
    post(fresh, {"user_id": golden.user_id, "item_id": golden.candidates[0]})
    asked = RankRequest(user_id=golden.user_id, candidates=golden.candidates[:3])
    shown = fresh.answer(asked).shown
    assert shown is not None
    for left in (house / "live").glob("simulator.db*"):
        left.unlink()
    keep(fresh.store, shown)
    for _ in range(2):
        with pytest.raises(StaleStoreError, match="lost, emptied or replaced"):
            rank(fresh)
    again = opened_in(house)
    assert again.store.live.num_events == 3
    again.store.tail.close()


def test_users_and_items_that_the_log_never_had_are_taken(fresh: Predictor) -> None:
    golden = fresh.bundle.golden[0]
    assert rank(fresh, user_id="newcomer").cold_start_user
    post(fresh, *[{"user_id": "newcomer", "item_id": item} for item in (golden.candidates[0], "new item")])
    reply = rank(fresh, user_id="newcomer", candidates=[*golden.candidates, "new item"])
    assert (reply.cold_start_user, reply.history.length) == (False, 2)
    assert not next(item for item in reply.items if item.item_id == "new item").known
    key = fresh.store.item_key("new item")
    assert fresh.store.counters.item_counters.read([key], fresh.store.log_end)[0].tolist() == [1]


def test_a_late_event_counts_from_when_it_was_known_and_changes_no_earlier_history(fresh: Predictor) -> None:
    golden = fresh.bundle.golden[0]
    history = fresh.store.history(golden.user_id)
    assert history is not None
    place = (
        int(np.flatnonzero(np.diff(history.occurred_at) > 2_000_000)[-1]) + 1
    )  # after an event, well before the next
    at = datetime.fromtimestamp(int(history.occurred_at[place - 1]) // 1_000_000 + 1, UTC).isoformat()
    post(fresh, {"user_id": golden.user_id, "item_id": golden.candidates[0], "occurred_at": at})
    now = fresh.store.history(golden.user_id)
    assert now is not None
    assert now.item_ids == [*history.item_ids, golden.candidates[0]]
    assert now.occurred_at[:-1].tolist() == history.occurred_at.tolist()
    assert now.occurred_at[-1] >= fresh.store.logged_end  # when it was acknowledged, on the clock of requests


def test_what_was_shown_is_remembered_and_its_outcome_is_one_row(fresh: Predictor) -> None:
    golden = fresh.bundle.golden[0]
    reply = rank(fresh, preview=False, k=3, context=RequestContext(device="phone").model_dump())
    assert reply.impression_id is not None
    rows = [event for _, event in fresh.store.tail.since(0)]
    assert [row.item_id for row in rows] == [item.item_id for item in reply.items]
    assert {(row.impression_id, row.label, row.device) for row in rows} == {(reply.impression_id, 0.0, "phone")}
    shown = rows[1]
    outcome = {"user_id": golden.user_id, "item_id": shown.item_id, "impression_id": reply.impression_id}
    assert post(fresh, outcome).events[0].event_id == shown.event_id
    assert post(fresh, outcome).num_new == 0
    last = fresh.store.tail.since(0)[-1][1]
    assert (last.event_id, last.revision, last.occurred_at) == (shown.event_id, OUTCOME, shown.occurred_at)
    key, end = fresh.store.item_key(shown.item_id), fresh.store.log_end
    logged = fresh.store.live.logged.item_counters.read([key], end)
    now = fresh.store.counters.item_counters.read([key], end)
    assert (now[0][0] - logged[0][0], now[1][0] - logged[1][0]) == (1, 1)
    history = fresh.store.history(golden.user_id)
    assert history is not None
    assert (history.item_ids[-1], history.label[-1]) == (shown.item_id, 1.0)


def test_previews_and_rankings_of_another_time_are_not_remembered(fresh: Predictor) -> None:
    assert rank(fresh, preview=True).impression_id is None
    assert rank(fresh, preview=False, at="2024-01-01T00:00:00Z").impression_id is None
    assert fresh.store.tail.newest_seq() == 0


def test_another_process_s_events_are_seen_by_the_next_ranking(fresh: Predictor, house: Path) -> None:
    other = opened_in(house)
    golden = fresh.bundle.golden[0]
    post(other, {"user_id": golden.user_id, "item_id": golden.candidates[0]})
    at = to_iso(fresh.clock())
    assert scores(rank(fresh, at=at)) == scores(rank(other, at=at))
    assert rank(fresh).history.length == rank(fresh, at=first_at(fresh)).history.length + 1


def test_a_predictor_that_is_opened_again_ranks_as_before(fresh: Predictor, house: Path) -> None:
    golden = fresh.bundle.golden[0]
    post(fresh, *[{"user_id": golden.user_id, "item_id": item} for item in golden.candidates])
    at = to_iso(fresh.clock())
    assert rank(opened_in(house), at=at) == rank(fresh, at=at)


def test_a_forgotten_user_is_unknown_at_once_and_further_events_are_not_stored(fresh: Predictor) -> None:
    golden = fresh.bundle.golden[0]
    post(fresh, {"user_id": golden.user_id, "item_id": golden.candidates[0]})
    fresh.store.tail.forget([golden.user_id])
    at = to_iso(fresh.clock())
    reply, stranger = rank(fresh, at=at), rank(fresh, user_id="a stranger", at=at)
    assert reply.cold_start_user
    assert not reply.history.known
    assert scores(reply) == scores(stranger)
    assert post(fresh, {"user_id": golden.user_id, "item_id": "x"}).events[0].fate == "forgotten"
    assert [event for _, event in fresh.store.tail.since(0)] == []


def test_the_server_takes_events_and_says_what_is_wrong(keeping: httpx.Client, predictor: Predictor) -> None:
    golden = predictor.bundle.golden[0]
    ask = {"user_id": golden.user_id, "candidates": golden.candidates}
    before = keeping.post("/rank", json=ask | {"preview": True}).json()
    shown = keeping.post("/rank", json=ask).json()
    event = {"user_id": golden.user_id, "item_id": golden.candidates[0], "impression_id": shown["impression_id"]}
    answer = keeping.post("/events", json={"events": [event]})
    assert (answer.status_code, answer.json()["num_new"]) == (200, 1)
    after = keeping.post("/rank", json=ask | {"preview": True}).json()
    assert after["history"]["length"] == before["history"]["length"] + 1
    told = keeping.post("/events", json={"events": [event, event | {"label": 0.25}]}).json()
    assert [each["fate"] for each in told["events"]] == ["repeated", "repeated"]
    for bad in ({}, {"events": []}, {"events": [{"user_id": "u"}]}, {"events": [event | {"label": 3}]}):
        assert keeping.post("/events", json=bad).status_code == 400
    unlinked = keeping.post("/events", json={"events": [event, event | {"user_id": "other"}]})
    assert unlinked.status_code == 200
    assert [each["fate"] for each in unlinked.json()["events"]] == ["repeated", "unlinked"]
