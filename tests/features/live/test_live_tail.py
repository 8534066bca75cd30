"""The contract of a tail, by both engines: what is kept, in which order, once, and what is refused."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from features.live.tail import LiveTail
from features.sealed.event import OUTCOME, Fate
from features.terms.convention import key_of_text
from tests.features.live_tails import PLACES, START_US, event, server_of, tails_of

pytestmark = pytest.mark.xdist_group("redis")
NEW, REPEATED, FORGOTTEN = Fate.NEW, Fate.REPEATED, Fate.FORGOTTEN


@pytest.fixture(params=PLACES)
def open_tail(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[[], LiveTail]]:
    with tails_of(tmp_path, server_of(request, request.param)) as opener:
        yield opener


@pytest.fixture
def tail(open_tail: Callable[[], LiveTail]) -> LiveTail:
    return open_tail()


def test_an_event_comes_back_as_it_was_appended(tail: LiveTail) -> None:
    full = event(
        'é"\u2028\\',
        user="u 1:/\u20ac",
        item="\U0001f600",
        label=0.1,
        position=3,
        session_id="s",
        impression_id="",
        device="phone",
        is_subscriber=False,
        reading_item_id="r",
    )
    bare = event("b", user="u 1:/\u20ac", item="\U0001f600", at=1)
    assert tail.append([full, bare]) == [NEW, NEW]
    assert [each for _, each in tail.since(0)] == [full, bare]
    assert tail.histories(["u 1:/\u20ac"], 10) == [[full, bare]]
    read = tail.since(0)[0][1]
    assert read.is_subscriber is False
    assert read.in_history is True
    assert tail.since(0)[1][1].is_subscriber is None


def test_an_empty_tail_knows_nothing(tail: LiveTail) -> None:
    assert (tail.newest_seq(), tail.pruned_seq(), tail.marks()[:2], tail.since(0)) == (0, 0, (0, 0), [])
    assert tail.histories(["u"], 5) == [[]]
    assert (tail.held(["e"]), tail.forgotten(["u"])) == ([None], [False])
    assert tail.append([]) == tail.held([]) == tail.forgotten([]) == tail.histories([], 5) == []
    assert tail.prune(10**18) == 0


def test_a_repeated_event_changes_nothing_within_a_call_or_later(tail: LiveTail) -> None:
    assert tail.append([event("a"), event("a", item="other")]) == [NEW, REPEATED]
    newest = tail.newest_seq()
    assert tail.append([event("a", user="v"), event("b")]) == [REPEATED, NEW]
    assert [each for _, each in tail.since(0)] == [event("a"), event("b")]
    assert tail.since(newest) == [(tail.newest_seq(), event("b"))]
    assert tail.held(["a", "b", "c", "a"]) == [event("a"), event("b"), None, event("a")]


def test_a_seq_is_greater_than_every_one_before_and_than_the_clock_at_that_time(
    tail: LiveTail, open_tail: Callable[[], LiveTail]
) -> None:
    before = time.time_ns() // 1000
    other = open_tail()
    for number in range(20):
        (tail if number % 2 else other).append([event(f"{number}-{part}") for part in range(3)])
    rows = other.since(0)
    seqs = [seq for seq, _ in rows]
    assert [each.event_id for _, each in rows] == [f"{number}-{part}" for number in range(20) for part in range(3)]
    assert seqs == sorted(set(seqs))
    assert seqs[0] >= before
    assert seqs[-1] == tail.newest_seq() == other.newest_seq()
    assert tail.since(seqs[10], limit=5) == rows[11:16]


def test_a_history_is_the_newest_events_by_time_then_item_then_event_key(tail: LiveTail) -> None:
    events = [
        event("late", item="a", at=-(10**9)),
        *(event(f"tie{number}", item="b", at=5) for number in range(8)),
        event("tie", item="a", at=5),
        event("tie-longer-item", item="ab", at=5),
        event("new", item="a", at=6),
        event("other", user="v", at=4),
        event("shown", at=9, label=0.0, in_history=False),
    ]
    tail.append(events[::-1])
    expected = sorted(
        (each for each in events if each.user_id == "u" and each.in_history),
        key=lambda each: (each.occurred_at, each.item_id, key_of_text(each.event_id)),
    )
    assert tail.histories(["u", "v", "w"], 100) == [expected, [events[-2]], []]
    assert tail.histories(["u"], 4) == [expected[-4:]]


@pytest.mark.parametrize("outcome_first", [False, True])
def test_of_a_show_and_its_outcome_a_history_has_the_outcome(tail: LiveTail, outcome_first: bool) -> None:
    pair = [event("a", label=0.0), event("a", label=1.0, revision=OUTCOME)]
    for each in reversed(pair) if outcome_first else pair:
        assert tail.append([each]) == [NEW]
    assert tail.histories(["u"], 10) == [[pair[1]]]
    assert len(tail.since(0)) == 2


def test_an_outcome_alone_extends_a_history_where_shows_do_not(tail: LiveTail) -> None:
    tail.append([event("a", label=0.0, in_history=False), event("a", label=1.0, revision=OUTCOME)])
    tail.append([event("b", at=1), event("b", at=1, label=0.0, revision=OUTCOME, in_history=False)])
    assert [each.event_id for each in (tail.histories(["u"], 10)[0] or [])] == ["a", "b"]


def test_of_an_event_id_the_show_is_held_and_its_outcome_where_that_is_alone(tail: LiveTail) -> None:
    tail.append([event("a", revision=OUTCOME)])
    assert tail.held(["a"]) == [event("a", revision=OUTCOME)]
    tail.append([event("a", label=0.0)])
    assert tail.held(["a"]) == [event("a", label=0.0)]


def test_a_tail_s_secret_is_one_for_every_process_and_outlives_what_it_holds(
    tail: LiveTail, open_tail: Callable[[], LiveTail]
) -> None:
    with ThreadPoolExecutor(4) as pool:
        made = set(pool.map(lambda other: other.secret(), [open_tail() for _ in range(4)]))
    assert made == {tail.secret()}
    assert len(tail.secret()) == 32
    tail.append([event("a")])
    tail.forget(["u"])
    tail.prune(2**60)
    assert open_tail().secret() == tail.secret()
    tail.drop()
    assert open_tail().secret() not in made


def test_a_tail_is_of_the_log_that_met_it_first(tail: LiveTail, open_tail: Callable[[], LiveTail]) -> None:
    assert tail.belongs_to("0123456789ab") == "0123456789ab"
    tail.append([event("one")])
    assert open_tail().belongs_to("ba9876543210") == "0123456789ab"


def test_pruning_drops_what_a_batch_holds_and_says_so(tail: LiveTail, open_tail: Callable[[], LiveTail]) -> None:
    tail.append([event(f"{number:04}", at=number) for number in range(3000)])
    rows = tail.since(0)
    upto = rows[2499][0]
    assert tail.prune(upto) == 2500
    other = open_tail()
    assert other.pruned_seq() == upto
    assert other.newest_seq() == rows[-1][0]
    assert other.since(0) == rows[2500:]
    assert other.histories(["u"], 10_000) == [[each for _, each in rows[2500:]]]
    assert other.held(["0000", "2999"]) == [None, rows[-1][1]]
    assert other.prune(upto) == 0
    assert other.prune(rows[0][0]) == 0
    assert other.pruned_seq() == upto
    assert other.prune(2**60) == 500
    assert (other.newest_seq(), other.pruned_seq()) == other.marks()[:2] == (rows[-1][0], rows[-1][0])
    assert tail.append([event("again")]) == [NEW]
    assert tail.newest_seq() > rows[-1][0]


def test_a_forgotten_user_has_no_events_and_gets_none(tail: LiveTail, open_tail: Callable[[], LiveTail]) -> None:
    tail.append([event("a"), event("b", in_history=False), event("c", user="v")])
    newest = tail.newest_seq()
    tail.forget(["u", "never seen"])
    other = open_tail()
    assert other.append([event("d"), event("e", user="v", at=1), event("f", user="never seen")]) == [
        FORGOTTEN,
        NEW,
        FORGOTTEN,
    ]
    assert other.forgotten(["u", "v", "never seen"]) == [True, False, True]
    assert other.histories(["u", "v"], 10) == [None, [event("c", user="v"), event("e", user="v", at=1)]]
    assert [each.user_id for _, each in other.since(0)] == ["v", "v"]
    assert other.held(["a", "b", "c"]) == [None, None, event("c", user="v")]
    assert other.newest_seq() > newest


def test_ten_thousand_events_of_one_user_in_one_second_are_bounded_by_the_length_asked_for(tail: LiveTail) -> None:
    events = [event(f"{number}", item=f"i{number % 7}", at=number * 100) for number in range(10_000)]
    for first in range(0, 10_000, 1000):
        assert tail.append(events[first : first + 1000]) == [NEW] * 1000
    assert tail.histories(["u"], 1000) == [events[-1000:]]
    assert events[-1].occurred_at - START_US < 1_000_000


def test_an_append_that_fails_keeps_none_of_its_events(tail: LiveTail) -> None:
    with pytest.raises(UnicodeEncodeError):
        tail.append([event("good"), event("bad \ud800")])
    assert tail.since(0) == []
    assert tail.append([event("good")]) == [NEW]
