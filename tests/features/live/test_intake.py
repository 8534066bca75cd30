"""A posted event is judged by the log's own rules, named as the log would name it, and takes its ranking's time."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from contracts.errors import InputError
from contracts.schema import INTERACTIONS, ROLE_HISTORY, ROLE_IMPRESSION
from features.encoding.asked import Context
from features.live.exposure import is_exposure, name_exposure, served_at, shown_event_id, shows
from features.live.intake import Intake, Posted, as_events_of_their_own, refuse_names_of_others
from features.live.sqlite import SqliteTail
from features.sealed.event import EVENT, OUTCOME, Fate, LiveEvent
from features.terms.event_id import event_id, event_ids
from features.terms.params import ValidateParams
from features.terms.rules import first_broken, rules
from tests.features.judged_rows import flaws_of

PARAMS = ValidateParams(
    earliest=datetime(1990, 1, 1, tzinfo=UTC),
    latest=datetime(2100, 1, 1, tzinfo=UTC),
    max_silence_s=None,
    max_id_length=8,
    max_quarantined_share=1,
    max_duplicated_share=1,
    min_users=1,
    min_items=1,
    min_clicks=1,
    min_unclicked=0,
)
SECRET = bytes(32)
INTAKE = Intake(rules(PARAMS), "clicked", 40, SECRET)
INTAKE_OF_LONG_IDS = Intake(rules(PARAMS), "clicked", 80, SECRET)
NOW = 1_700_000_000_000_000

ids = st.one_of(st.none(), st.sampled_from(["u", "", "9 letters", "tab\t", "\x7f", "\x85", "ü🎬", "12345678"]))
rows = st.fixed_dictionaries(
    {
        "user_id": ids,
        "item_id": ids,
        "occurred_at": st.one_of(
            st.none(),
            st.datetimes(datetime(1980, 1, 1), datetime(2110, 1, 1), timezones=st.just(UTC)),
            st.sampled_from([PARAMS.earliest, PARAMS.latest, PARAMS.latest + timedelta(microseconds=1)]),
        ),
        "label": st.one_of(st.none(), st.sampled_from([0.0, 1.0, 0.5, -0.5, 1.5, float("nan"), float("inf")])),
        "position": st.one_of(st.none(), st.integers(-2, 2)),
        "role": st.sampled_from([ROLE_IMPRESSION, ROLE_HISTORY, "other"]),
    }
)


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(rows, min_size=1, max_size=20))
def test_a_value_breaks_the_rule_that_its_row_of_a_log_would_break(tmp_path: Path, given_rows: list[dict]) -> None:
    named = [{"event_id": f"e{n}", "impression_id": None, "session_id": None} | row for n, row in enumerate(given_rows)]
    path = tmp_path / "log.parquet"
    pq.write_table(pa.Table.from_pylist(named, INTERACTIONS), path)
    flaws = flaws_of([path], rules(PARAMS))
    reasons = dict(zip(flaws.row.tolist(), flaws.reason.tolist(), strict=True))
    for number, row in enumerate(named):
        broken = first_broken(row, rules(PARAMS))
        assert (broken.reason if broken else None) == reasons.get(number), row


def test_an_event_is_named_as_ingest_names_its_row() -> None:
    told = {"user_id": "ü", "item_id": "i", "occurred_at": NOW, "label": 0.3, "impression_id": None, "position": 2}
    column = pa.table({name: pa.array([value]).cast(INTERACTIONS.field(name).type) for name, value in told.items()})
    assert event_ids(column).to_pylist() == [event_id(**told)]
    (event,) = INTAKE.read([Posted("ü", "i", NOW, 0.3, None, 2)], NOW, NOW)
    assert event.event_id == event_id(**told)
    assert INTAKE.read([Posted("ü", "i", NOW, event_id="mine")], NOW, NOW)[0].event_id == "mine"


def test_events_in_pieces_are_named_as_in_one() -> None:
    """Their texts, joined, may be more than one array of Arrow holds (2 GiB)."""
    rows = [{"user_id": f"ü{n}", "item_id": "i", "label": n / 9, "position": None} for n in range(9)]
    columns = {name: pa.array([row.get(name) for row in rows], INTERACTIONS.field(name).type) for name in rows[0]}
    columns |= {"occurred_at": pa.array([NOW] * 9).cast(INTERACTIONS.field("occurred_at").type)}
    table = pa.table(columns | {"impression_id": pa.nulls(9, pa.string())})
    names = event_ids(table).to_pylist()
    assert names[4] == event_id(**rows[4], occurred_at=NOW, impression_id=None)
    pieces = pa.concat_tables([table.slice(0, 2), table.slice(2, 0), table.slice(2, 7)])
    assert pieces["user_id"].num_chunks > 1
    assert (event_ids(pieces).to_pylist(), event_ids(table.slice(9)).to_pylist()) == (names, [])


def test_an_event_without_a_time_has_the_time_it_came() -> None:
    (event,) = INTAKE.read([Posted("u", "i")], NOW, NOW)
    assert (event.occurred_at, event.label, event.role, event.revision) == (NOW, 1.0, ROLE_IMPRESSION, EVENT)


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        (Posted("u", "i" * 9), "item_id 'iiiiiiiii': item_id not of 1 to 8 characters"),
        (Posted("tab\t", "i"), "user_id has control characters"),
        (Posted("u", "i", NOW + 1), "lies in the future"),
        (Posted("u", "i", 0), "occurred_at outside validate.earliest"),
        (Posted("u", "i", label=2.0), "label 2.0: label outside 0 to 1"),
        (Posted("u", "i", position=-1), "position below 0"),
        (Posted("u", "i", session_id="s" * 41), "session_id has 41 characters; at most 40"),
    ],
)
def test_a_bad_event_is_named_by_its_place_and_takes_the_others_with_it(bad: Posted, said: str) -> None:
    with pytest.raises(InputError, match=r"^events\.1: ") as error:
        INTAKE.read([Posted("u", "i"), bad, Posted("u", "i")], NOW, NOW)
    assert said in str(error.value)


def test_an_outcome_has_the_name_and_time_of_what_was_shown() -> None:
    context = Context("phone", True, "page")
    name = name_exposure("u", NOW - 5, SECRET)
    shown = shows(name, "u", NOW - 5, ["a", "b"], context, in_history=False)
    assert [(row.item_id, row.position, row.label, row.occurred_at) for row in shown] == [
        ("a", 0, 0.0, NOW - 5),
        ("b", 1, 0.0, NOW - 5),
    ]
    assert (shown[0].device, shown[0].is_subscriber, shown[0].reading_item_id) == context
    (outcome,) = INTAKE_OF_LONG_IDS.read([Posted("u", "b", NOW, impression_id=name)], NOW, NOW)
    assert (outcome.event_id, outcome.occurred_at, outcome.revision) == (shown[1].event_id, NOW - 5, OUTCOME)
    assert outcome.in_history
    assert not shown[1].in_history
    assert as_events_of_their_own([outcome], [shown[1]]) == [outcome]
    assert as_events_of_their_own([outcome], [None]) == [outcome._replace(revision=EVENT)]


def test_a_ranking_s_name_says_when_and_for_whom() -> None:
    name = name_exposure("ü", NOW, SECRET)
    assert served_at(name, "ü", SECRET) == NOW
    assert served_at(name, "u", SECRET) is None
    assert served_at(f"{name[:-1]}{'0' if name[-1] != '0' else '1'}", "ü", SECRET) is None
    assert served_at(name, "ü", b"of another tail") is None
    assert [served_at(other, "u", SECRET) for other in (None, "", "r1", "served-x-y-z", f"{name[:-1]}é")] == [None] * 5
    assert is_exposure(name)
    assert not is_exposure("r1")
    assert name_exposure("ü", NOW, SECRET) != name
    assert shown_event_id(name, "a") != shown_event_id(name, "b")


@pytest.mark.parametrize(
    ("user", "name"),
    [
        ("v", name_exposure("u", NOW - 5, SECRET)),  # of another user
        ("u", name_exposure("u", NOW - 5, b"of a tail that was lost")),
        ("u", "served-0-0-0"),
        ("u", "served-7fffffffffffffff-0-0"),
    ],
    ids=["of another user", "of a lost tail", "malformed", "of no time"],  # the names are drawn: workers must agree
)
def test_an_event_of_an_unknown_ranking_is_stored_unlinked_and_its_batch_is_accepted(user: str, name: str) -> None:
    posted = [Posted("w", "j", NOW - 1), Posted(user, "i", impression_id=name)]
    assert [INTAKE_OF_LONG_IDS.is_unlinked(each) for each in posted] == [False, True]
    _, event = INTAKE_OF_LONG_IDS.read(posted, NOW, NOW)
    assert (event.user_id, event.occurred_at, event.revision) == (user, NOW, EVENT)
    assert not is_exposure(event.impression_id)
    assert event.event_id != shown_event_id(name, "i")
    again = INTAKE_OF_LONG_IDS.read(posted[1:], NOW + 7, NOW + 7)[0]
    assert again.event_id == event.event_id  # sent again it is that event again, as with a ranking that is known
    clicked, shown = (
        INTAKE_OF_LONG_IDS.read([Posted(user, "i", label=label, impression_id=name)], NOW, NOW)[0] for label in (1, 0)
    )
    assert clicked.event_id == event.event_id != shown.event_id
    told = INTAKE_OF_LONG_IDS.read([Posted(user, "i", NOW - 9, impression_id=name, event_id="mine")], NOW, NOW)[0]
    assert (told.event_id, told.occurred_at) == ("mine", NOW - 9)


def test_a_ranking_that_is_known_may_be_cited_whatever_its_time_is_now() -> None:
    """serve.clock was changed, say: what was shown was shown."""
    name = name_exposure("u", NOW + 10**9, SECRET)
    assert INTAKE_OF_LONG_IDS.read([Posted("u", "i", impression_id=name)], NOW, NOW)[0].occurred_at == NOW + 10**9


@pytest.mark.parametrize(("at", "now", "kept"), [(-2, -2, False), (-2, -1, True), (-1, -1, True), (-1, -2, True)])
def test_what_counts_from_before_the_retention_extends_no_history(at: int, now: int, kept: bool) -> None:
    """An old event that came later counts from then, in the log too (features/history/ranges.py)."""
    intake = Intake(rules(PARAMS), "all", 40, SECRET, keep_from=NOW - 1)
    (event,) = intake.read([Posted("u", "i", NOW + at)], NOW + now, NOW)
    assert event.in_history == (event.counts_from >= NOW - 1) == kept


def again_of(event: LiveEvent) -> str:
    assert event.impression_id is not None
    return event.impression_id


def test_a_caller_s_own_impression_is_a_request_of_the_log_like_any_other() -> None:
    (event,) = INTAKE.read([Posted("u", "i", NOW, 0.0, impression_id="r1", position=1)], NOW, NOW)
    assert (event.revision, event.in_history) == (EVENT, False)
    again, other, twice = INTAKE.read(
        [
            Posted("u", "j", NOW, 1.0, "r1"),
            Posted("u", "i", NOW, 1.0, "r2"),
            Posted("u", "i", NOW, 1.0, again_of(event)),
        ],
        NOW,
        NOW,
    )
    assert again.impression_id == event.impression_id
    assert len({event.impression_id, other.impression_id, twice.impression_id, "r1", "r2"}) == 5
    assert Intake(rules(PARAMS), "all", 40, SECRET).read([Posted("u", "i", NOW, 0.0)], NOW, NOW)[0].in_history


def test_no_impression_id_of_a_caller_quarantines_rows_of_other_users_or_of_the_log(tmp_path: Path) -> None:
    """A quarantine tells of an impression of several users; names of blocks of events are <user_id>/<number>."""
    logged = {"event_id": "l", "user_id": "v", "item_id": "i", "occurred_at": datetime(2023, 1, 1, tzinfo=UTC)}
    ours = name_exposure("v", NOW, SECRET)
    rows: list[dict] = [
        logged | {"label": 0.0, "role": ROLE_IMPRESSION, "event_id": f"l{number}", "impression_id": name}
        for number, name in enumerate(["home-feed", "of-v", ours])
    ]
    taken = INTAKE_OF_LONG_IDS.read(
        [
            *(Posted(user, "i", NOW, impression_id="home-feed") for user in ("u1", "u2", "u3")),
            Posted("u1", "i", NOW, impression_id="of-v"),
            Posted("u1", "i", NOW, impression_id="u2/0"),
            Posted("v", "i", impression_id=ours),
        ],
        NOW,
        NOW,
    )
    assert "u2/0" not in {event.impression_id for event in taken}
    times = [{"occurred_at": datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=e.occurred_at)} for e in taken]
    rows += [event._asdict() | time for event, time in zip(taken, times, strict=True)]
    names = INTERACTIONS.names
    path = tmp_path / "log.parquet"
    pq.write_table(pa.Table.from_pylist([{name: row.get(name) for name in names} for row in rows], INTERACTIONS), path)
    assert flaws_of([path], rules(PARAMS)).reason.tolist() == []


def test_a_ranking_of_no_time_that_could_be_is_none_of_ours_and_no_time_overflows() -> None:
    for at in (0x7FFFFFFFFFFFFFFF, 10**16):
        name = name_exposure("u", at, SECRET)
        assert served_at(name, "u", SECRET) is None
        assert INTAKE_OF_LONG_IDS.read([Posted("u", "i", impression_id=name)], NOW, NOW)[0].occurred_at == NOW
    for at in (2**63 - 1, -(2**63)):
        with pytest.raises(InputError, match=r"events.0: occurred_at .* lies outside the years 1 to 9999"):
            INTAKE.read([Posted("u", "i", at)], NOW, NOW)


def test_a_ranking_s_name_cannot_be_made_without_the_secret() -> None:
    posted = Posted("u", "i", impression_id=name_exposure("u", NOW - 5, b"guessed"))
    assert INTAKE_OF_LONG_IDS.is_unlinked(posted)
    assert INTAKE_OF_LONG_IDS.read([posted], NOW, NOW)[0].occurred_at == NOW


@pytest.mark.parametrize(("told", "kept", "clicked"), [(0.49999999999, 0.5, True), (-0.0, 0.0, False)])
def test_a_label_is_a_click_live_where_it_is_one_in_the_log(told: float, kept: float, clicked: bool) -> None:
    (event,) = INTAKE.read([Posted("u", "i", NOW, told)], NOW, NOW)
    assert (str(event.label), event.in_history) == (str(kept), clicked)
    assert event.label == pa.scalar(event.label, INTERACTIONS.field("label").type).as_py()
    assert event.event_id == INTAKE.read([Posted("u", "i", NOW, kept)], NOW, NOW)[0].event_id


def test_the_same_event_without_a_time_is_another_each_time_unless_it_is_named() -> None:
    first, second = INTAKE.read([Posted("u", "i"), Posted("u", "i")], NOW, NOW)
    assert first.event_id != second.event_id
    first, second = INTAKE.read([Posted("u", "i", NOW), Posted("u", "i", NOW)], NOW, NOW)
    assert first.event_id == second.event_id


def test_an_event_id_of_another_user_s_event_is_refused_by_its_place() -> None:
    mine, theirs = INTAKE.read([Posted(user, "i", NOW, event_id="e1") for user in ("u", "v")], NOW, NOW)
    refuse_names_of_others([mine, mine], [None, mine])
    for events, held in (
        ([mine, theirs], [None, None]),
        ([mine, theirs], [mine, mine]),
        ([mine, theirs], [None, mine]),
    ):
        with pytest.raises(InputError, match=r"^events\.1: event_id 'e1' is that of another user's event"):
            refuse_names_of_others(events, held)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from([0.0, 1.0]), max_size=4), st.booleans(), st.booleans())
def test_outcomes_posted_together_equal_those_posted_singly_and_each_click_counts_once(
    tmp_path_factory: pytest.TempPathFactory, labels: list[float], is_shown: bool, is_clicked: bool
) -> None:
    name = name_exposure("u", NOW, SECRET)
    before = shows(name, "u", NOW, ["i"], Context(), in_history=False) if is_shown else []
    before += INTAKE_OF_LONG_IDS.read([Posted("u", "i", impression_id=name)], NOW, NOW) if is_clicked else []
    posted = [Posted("u", "i", label=label, impression_id=name) for label in labels]
    requests = [[each] for each in posted]
    one, other = (SqliteTail(tmp_path_factory.mktemp("tail") / "live.db") for _ in range(2))
    for tail in (one, other):
        tail.append(before)
    together, each_alone = take(one, posted), [fate for request in requests for fate in take(other, request)]
    kept = [[event for _, event in tail.since(0)] for tail in (one, other)]
    histories = [tail.histories(["u"], 9) for tail in (one, other)]
    one.close()
    other.close()
    assert (together, kept[0], histories[0]) == (each_alone, kept[1], histories[1])
    assert sum(event.label for event in kept[0]) == (is_clicked or 1.0 in labels)
    assert len(histories[0][0] or []) == (is_clicked or 1.0 in labels)


def take(tail: SqliteTail, posted: list[Posted]) -> list[Fate]:
    events = INTAKE_OF_LONG_IDS.read(posted, NOW, NOW)
    return tail.append(as_events_of_their_own(events, tail.held([event.event_id for event in events])))
