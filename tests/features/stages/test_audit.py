"""The audit says how often consecutive sessions of a user differ in theme."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from features.pages.shift import write_shift
from features.shifts.measure import shifts
from features.shifts.verdict import SHIFTS, WEAK, advice
from features.stages import histories
from features.stages.audit import run
from features.terms.params import AuditParams
from tests.features import pages_browser
from tests.features.small_log import Row, history, request, row, write_log

HOUR = 3600


def log(user: str, *sessions: str) -> list[Row]:
    """One session an hour; each letter is an event on an item of that category."""
    return [
        row(user, f"item-{letter}", number * HOUR + place)
        for number, letters in enumerate(sessions)
        for place, letter in enumerate(letters)
    ]


def audited(data: Path, rows: list[Row], categories: dict[str, list[str]], min_session_events: int = 2) -> dict:
    write_log(data, rows, categories)
    histories.run(data, request(), history())
    report = run(
        data, AuditParams(min_session_events=min_session_events, num_themes=12, num_shuffles=1, num_draws=20, seed=1)
    )
    written = json.loads((data / "shift_audit" / "audit.json").read_text())
    assert {key: written[key] for key in report} == report
    return written


CATEGORIES = {"item-a": ["news"], "item-b": ["sport"], "item-c": ["sport", "arts"], "item-n": []}


def test_hops_and_returns_are_counted_by_hand(tmp_path: Path) -> None:
    # u: news, sport, news, news, sport: pairs 4, hops 3, of which back to a known theme 2. v: news, sport: 1 hop, new.
    rows = log("u", "aab", "bb", "aa", "aa", "cb") + log("v", "aa", "cc")
    found = audited(tmp_path, rows, CATEGORIES)
    assert found["num_sessions"] == found["num_sessions_judged"] == 7
    assert found["num_pairs"] == 5
    assert found["hop_rate"] == pytest.approx(4 / 5)
    assert found["return_rate"] == pytest.approx(2 / 4)
    assert found["sessions_by_theme"] == {"news": 4, "sport": 2, "arts": 1}  # v's last: a tie, the first by name


def test_the_page_says_the_same_of_the_written_audit_as_of_the_measured_one(tmp_path: Path) -> None:
    """The page with models is made from audit.json, whose keys are sorted: the largest comes before the median."""
    data = tmp_path / "data" / "log"
    sessions = ["a" * 9, "bb", "aaa", "aa", "bbbb"]
    written = audited(data, log("u", *sessions) + log("v", "aa", "bbbbb"), CATEGORIES)
    page, again = tmp_path / "reports" / "log" / "shift.html", tmp_path / "again.html"
    write_shift(again, written, None)
    assert again.read_text() == page.read_text()
    words = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", again.read_text()))
    assert "events per session 3 7.8 9" in words  # of 2 2 2 3 4 5 9: the median, 95 %, and the largest
    assert words.index("news 4") < words.index("sport 3")


def test_with_models_the_page_begins_with_the_one_that_follows_a_shift_best(tmp_path: Path) -> None:
    written = audited(tmp_path / "data" / "log", log("u", "aab", "bb") + log("v", "aa", "bbb"), CATEGORIES)
    aucs = {"din": (0.7, 0.75), "mos": (0.725, 0.8), "logistic": (0.69, None)}
    rows = [{"model": name, "since_shift": n, "auc": auc} for name, both in aucs.items() for n, auc in enumerate(both)]
    write_shift(tmp_path / "models.html", written, rows)
    words = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", (tmp_path / "models.html").read_text()))
    assert "Right after a shift MoS orders best (AUC 0.725), then DIN (0.700)." in words
    assert words.index("How models fare after a shift") < words.index("A dozen users")
    assert "MoS 0.725 0.800 logistic regression 0.690 –" in words


def test_small_sessions_and_items_without_a_category_are_not_judged(tmp_path: Path) -> None:
    rows = log("u", "aa", "b", "nn", "aa") + log("v", "aa")
    found = audited(tmp_path, rows, CATEGORIES)
    assert (found["num_sessions"], found["num_sessions_judged"], found["num_pairs"]) == (5, 3, 1)
    assert found["hop_rate"] == 0
    assert found["return_rate"] is None


def test_a_log_without_categories_has_no_rates(tmp_path: Path) -> None:
    found = audited(tmp_path, log("u", "aa", "bb") + log("v", "aa"), {f"item-{letter}": [] for letter in "ab"})
    assert found["num_sessions"] == 3
    assert found["hop_rate"] is None
    assert found["expected_hop_rate"] is None


def test_the_expected_hop_rate_is_that_of_shuffled_sessions() -> None:
    random = np.random.default_rng(0)
    user, theme = np.repeat([0, 1], [6, 4]), np.array([0, 0, 0, 1, 2, 1, 5, 5, 6, 5])
    rates = []
    for _ in range(4000):
        order = np.lexsort((random.random(len(user)), user))
        rates.append(shifts(user, theme[order])["hop_rate"])
    assert shifts(user, theme)["expected_hop_rate"] == pytest.approx(np.mean(rates), abs=0.01)


def test_routing_by_theme_is_advised_only_where_sessions_hold_a_theme_and_most_of_a_history_is_of_another() -> None:
    told: dict = {"off_theme": [{"window": 50, "share": 0.6}, {"window": 200, "share": 0.75}], "return_rate": None}
    told |= {"hop_rate": None, "shuffled": {"return_rate": None}}
    (said,) = advice(SHIFTS, told)
    assert said.startswith(
        "Try routing by theme: within a session the theme holds, but 60 % of a person's last 50 events"
    )
    assert advice(WEAK, told) == []
    told["off_theme"] = [{"window": 50, "share": 0.4}, {"window": 200, "share": None}]
    assert advice(SHIFTS, told) == []


def test_long_histories_are_advised_only_where_returns_are_as_many_as_by_chance() -> None:
    told: dict = {"off_theme": [], "hop_rate": None, "return_rate": 0.84, "shuffled": {"return_rate": 0.8}}
    (said,) = advice(SHIFTS, told)
    assert (
        said
        == "Keep long histories: 84 % of turns go back to a theme of earlier sessions (shuffled: 80 %), not to a new "
        "one."
    )
    told["shuffled"]["return_rate"] = 0.86
    assert advice(SHIFTS, told) == []
    told["return_rate"] = 0.3
    assert advice(SHIFTS, told)[0].startswith("Offer new themes: 70 % of turns")


def test_the_page_is_read_by_everybody_on_a_phone_too(tmp_path: Path) -> None:
    """Charts that would be too small scroll in their own box."""
    sessions = ["aab", "bb", "aa", "aa", "cb"] * 30
    written = audited(tmp_path / "data" / "log", log("u", *sessions) + log("v", *sessions), CATEGORIES)
    rows = [{"model": name, "since_shift": n, "auc": 0.7} for name in ("mos", "din") for n in (0, 1)]
    write_shift(tmp_path / "models.html", written, rows)
    for browser in pages_browser.launched():
        text = pages_browser.check(browser, tmp_path / "models.html")
        assert "From theme to theme" in text
