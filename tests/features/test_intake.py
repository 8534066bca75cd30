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
from features.asked import Context
from features.exposure import is_exposure, name_exposure, served_at, shown_event_id, shows
from features.flaws import find_flaws
from features.identity import event_id, event_ids
from features.intake import Intake, Posted, as_events_of_their_own
from features.live_event import EVENT, OUTCOME
from features.params import ValidateParams
from features.rules import first_broken, rules

PARAMS = ValidateParams(
    earliest=datetime(1990, 1, 1, tzinfo=UTC),
    latest=datetime(2100, 1, 1, tzinfo=UTC),
    max_id_length=8,
    max_quarantined_share=1,
    max_duplicated_share=1,
    min_users=1,
    min_items=1,
    min_clicks=1,
)
INTAKE = Intake(rules(PARAMS), "clicked", 40)
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
    flaws = find_flaws([path], rules(PARAMS))
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
    intake = Intake(rules(PARAMS), "clicked", 80)
    name = name_exposure("u", NOW - 5)
    shown = shows(name, "u", NOW - 5, ["a", "b"], context, in_history=False)
    assert [(row.item_id, row.position, row.label, row.occurred_at) for row in shown] == [
        ("a", 0, 0.0, NOW - 5),
        ("b", 1, 0.0, NOW - 5),
    ]
    assert (shown[0].device, shown[0].is_subscriber, shown[0].reading_item_id) == context
    (outcome,) = intake.read([Posted("u", "b", NOW, impression_id=name)], NOW, NOW)
    assert (outcome.event_id, outcome.occurred_at, outcome.revision) == (shown[1].event_id, NOW - 5, OUTCOME)
    assert outcome.in_history
    assert not shown[1].in_history
    assert as_events_of_their_own([outcome], [True]) == [outcome]
    assert as_events_of_their_own([outcome], [False]) == [outcome._replace(revision=EVENT)]


def test_a_ranking_s_name_says_when_and_for_whom() -> None:
    name = name_exposure("ü", NOW)
    assert served_at(name, "ü") == NOW
    assert served_at(name, "u") is None
    assert served_at(f"{name[:-1]}{'0' if name[-1] != '0' else '1'}", "ü") is None
    assert [served_at(other, "u") for other in (None, "", "r1", "served-x-y-z")] == [None] * 4
    assert is_exposure(name)
    assert not is_exposure("r1")
    assert name_exposure("ü", NOW) != name
    assert shown_event_id(name, "a") != shown_event_id(name, "b")


def test_another_user_s_ranking_cannot_be_cited() -> None:
    with pytest.raises(InputError, match="is of another user than 'v'"):
        Intake(rules(PARAMS), "clicked", 80).read([Posted("v", "i", impression_id=name_exposure("u", NOW))], NOW, NOW)


def test_a_caller_s_own_impression_is_a_request_of_the_log_like_any_other() -> None:
    (event,) = INTAKE.read([Posted("u", "i", NOW, 0.0, impression_id="r1", position=1)], NOW, NOW)
    assert (event.impression_id, event.revision, event.in_history) == ("r1", EVENT, False)
    assert Intake(rules(PARAMS), "all", 40).read([Posted("u", "i", NOW, 0.0)], NOW, NOW)[0].in_history
