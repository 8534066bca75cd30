"""Supposed clicks give the ranking that real ones would give, and nothing of them is stored."""

from datetime import UTC, datetime, timedelta

import httpx
import numpy as np
import pytest

from serving.answering.predictor import Predictor
from serving.answering.requests import RankRequest, to_iso, to_microseconds
from serving.answering.supposing import supposed
from serving.bundle.scorer import Events

pytestmark = [
    pytest.mark.xdist_group("serving"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # BentoML's words about what it imports
]

SECOND = 1_000_000


def events_at(*seconds: int) -> Events:
    """Clicks at these seconds, all in one session."""
    return Events(
        [f"i{second}" for second in seconds],
        np.array(seconds, np.int64) * SECOND,
        np.ones(len(seconds), np.float32),
        np.zeros(len(seconds), np.int64),
    )


def test_a_supposed_click_gives_the_ranking_that_the_real_one_gives(
    keeping: httpx.Client, predictor: Predictor
) -> None:
    golden = predictor.bundle.golden[3]
    asked = {"user_id": golden.user_id, "candidates": golden.candidates, "preview": True}
    soon = to_microseconds(keeping.post("/rank", json=asked).json()["at"]) + 60 * SECOND
    clicked = [item for item in predictor.bundle.scorer.index_of if item not in golden.candidates][:2]
    before = keeping.post("/rank", json=asked | {"at": to_iso(soon)}).json()
    supposing = keeping.post("/rank", json=asked | {"at": to_iso(soon), "suppose": clicked}).json()
    wanted = {"user_id": golden.user_id, "at": to_iso(soon), "preview": True}
    recommended = keeping.post("/recommend", json=wanted | {"suppose": clicked}).json()
    assert keeping.post("/rank", json=asked | {"at": to_iso(soon)}).json() == before  # nothing was kept
    times = (to_iso(soon - 2), to_iso(soon - 1))
    told = [
        {"user_id": golden.user_id, "item_id": item, "occurred_at": at} for item, at in zip(clicked, times, strict=True)
    ]
    assert keeping.post("/events", json={"events": told}).json()["num_new"] == 2
    real = keeping.post("/rank", json=asked | {"at": to_iso(soon)}).json()
    assert real == supposing
    assert real != before
    assert keeping.post("/recommend", json=wanted).json() == recommended
    assert not {item["item_id"] for item in recommended["items"]} & set(clicked)


def test_a_ranking_with_supposed_clicks_is_not_recorded_as_shown(keeping: httpx.Client, predictor: Predictor) -> None:
    golden = predictor.bundle.golden[4]
    asked = {"user_id": golden.user_id, "candidates": golden.candidates}
    assert keeping.post("/rank", json=asked).json()["impression_id"] is not None
    assert keeping.post("/rank", json=asked | {"suppose": ["anything"]}).json()["impression_id"] is None


def test_what_happened_at_or_after_the_time_is_not_known_beside_a_supposed_click(predictor: Predictor) -> None:
    spec = predictor.bundle.scorer.spec
    found = supposed(events_at(10, 20, 30), ["x", "y"], 20 * SECOND, spec)
    assert found is not None
    assert found.item_ids == ["i10", "x", "y"]
    assert found.occurred_at.tolist() == [10 * SECOND, 20 * SECOND - 2, 20 * SECOND - 1]
    assert found.session.tolist() == [0, 0, 0]
    assert found.label.tolist() == [1, 1, 1]


def test_after_a_long_gap_a_supposed_click_opens_a_session(predictor: Predictor) -> None:
    spec = predictor.bundle.scorer.spec
    start = int(datetime(2024, 1, 10, 12, tzinfo=UTC).timestamp())
    later = start + int(timedelta(seconds=spec.session_gap_s).total_seconds())
    within = supposed(events_at(start), ["x"], later * SECOND, spec)
    beyond = supposed(events_at(start), ["x", "y"], (later + 10) * SECOND, spec)
    assert within is not None
    assert beyond is not None
    assert within.session.tolist() == [0, 0]
    assert beyond.session.tolist() == [0, 1, 1]


def test_an_unknown_user_is_in_the_theme_of_a_supposed_click(predictor: Predictor) -> None:
    item = next(iter(predictor.bundle.scorer.index_of))
    asked = RankRequest(user_id="nobody", candidates=[item], suppose=[item], preview=True)
    reply = predictor.rank(asked)
    assert not reply.cold_start_user
    assert reply.themes[0].theme == reply.items[0].theme


@pytest.mark.parametrize(
    "suppose", [["x"] * 101, ["x" * 300], [1], "x", [""]], ids=["many", "long", "number", "text", "empty"]
)
def test_what_cannot_be_supposed_is_a_400_that_names_it(server: httpx.Client, suppose: object) -> None:
    answer = server.post("/rank", json={"user_id": "u", "candidates": ["a"], "suppose": suppose})
    assert answer.status_code == 400
    assert answer.json()["error"]["field"].startswith("suppose")
