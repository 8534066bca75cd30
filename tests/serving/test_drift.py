"""Drift: what is served like the test requests is steady, other traffic has shifted, and a page shows which."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from playwright.sync_api import Browser

from serving import drift
from serving.answering.predictor import Predictor
from serving.answering.requests import to_iso
from serving.bundle.loaded import PROFILE
from serving.bundle.logged import RequestLog
from tests.features import pages_browser
from training.judging.profile import profile, shares, stability

pytestmark = [
    pytest.mark.xdist_group("serving"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # BentoML's words about what it imports
]
NUM = 150


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    yield from pages_browser.launched()


@pytest.fixture(scope="module")
def lines(data: Path) -> list[dict[str, Any]]:
    """Requests of the test part, as a request log has them."""
    index = np.unique(pq.read_table(data / "predictions")["request_index"].to_numpy())
    chosen = index[np.linspace(0, len(index) - 1, NUM).astype(int)]
    assert len(index) > NUM
    return [line(each.user_id, each.candidates, each.at) for each in RequestLog.open(data).read(chosen)]


def line(user: str, candidates: Any, at: int) -> dict[str, Any]:
    asked = {"user_id": user, "candidates": list(candidates), "k": 2, "explain": True}
    return {"route": "/rank", "asked": asked, "at": to_iso(at), "store_away": False, "scores": {}}


def test_what_is_served_like_the_test_requests_is_steady(predictor: Predictor, lines: list[dict[str, Any]]) -> None:
    many = [f"i{n}" for n in range(predictor.limits.max_candidates + 1)]
    other: list[Any] = [lines[0] | {"route": "/recommend"}, lines[0] | {"store_away": True}, 5, {"route": "/rank"}]
    other += [lines[0] | {"asked": lines[0]["asked"] | {"candidates": many}}, lines[0] | {"at": "yesterday"}]
    told = drift.drift(predictor, [*lines, *other], drift.read_profile(predictor.bundle.path))
    assert {each["name"] for each in told["figures"]} == {
        "score", "history_length", "history_age_h", "candidates", *predictor.bundle.scorer.spec.scalars
    }  # fmt: skip
    assert told["state"] == drift.GOOD
    assert not [each for each in told["figures"] if each["state"] == "shifted"]
    assert told["num_requests"] == NUM
    assert sum(told["left_out"].values()) == len(other)


def test_other_traffic_has_shifted_and_the_page_says_where(
    predictor: Predictor,
    lines: list[dict[str, Any]],
    tmp_path: Path,
    browser: Browser,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = tmp_path / "log"
    folder.mkdir()
    strangers = [each | {"asked": each["asked"] | {"user_id": f"nobody{n}"}} for n, each in enumerate(lines)]
    (folder / "requests-1.jsonl").write_text("".join(json.dumps(each) + "\n" for each in strangers))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(drift, "open_here", lambda: predictor)
    monkeypatch.setattr("sys.argv", ["drift", str(folder)])
    with pytest.raises(SystemExit) as ended:
        drift.main()
    said = capsys.readouterr().out
    assert ended.value.code == drift.SHIFTED_EXIT
    told = json.loads((tmp_path / "reports/simulator/drift.json").read_text())
    assert {each["name"] for each in told["figures"] if each["state"] == "shifted"} >= {"history_length"}
    assert "history_age_h" not in {each["name"] for each in told["figures"]}  # nobody has one
    text = pages_browser.check(browser, tmp_path / "reports/simulator/drift.html")
    assert told["sentence"] in said
    assert told["sentence"] in text
    assert "events in a user's history" in text


def test_a_folder_without_a_log_and_a_bundle_without_a_profile_say_what_to_do(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["drift", str(tmp_path / "none")])
    with pytest.raises(SystemExit) as ended:
        drift.main()
    assert ended.value.code == 2
    assert "LEITMOTIF_REQUEST_LOG" in capsys.readouterr().err
    (bundle / PROFILE).unlink()
    with pytest.raises(drift.InputError, match="make run"):
        drift.read_profile(bundle)


def test_few_requests_are_not_judged(predictor: Predictor, lines: list[dict[str, Any]]) -> None:
    told = drift.drift(predictor, lines[:5], drift.read_profile(predictor.bundle.path))
    assert told["state"] == drift.NOT_JUDGED
    assert drift.drift(predictor, [], drift.read_profile(predictor.bundle.path))["figures"] == []


def test_the_index_takes_chance_off_and_grows_with_what_moves() -> None:
    random = np.random.default_rng(0)
    told = profile({"one": random.normal(size=4000), "few": random.integers(0, 3, 4000)}, 4000)["figures"]
    assert len(told["one"]["shares"]) == 10
    assert np.allclose(told["one"]["shares"], 0.1, atol=1e-9)
    assert sum(told["few"]["shares"]) == pytest.approx(1)
    found = [
        stability(np.array(told["one"]["shares"]), shares(random.normal(by, 1, 500), told["one"]["cuts"]), 4000, 500)
        for by in (0.0, 0.0, 0.0, 0.5, 1.0)
    ]
    assert np.mean(found[:3]) < 0.02
    assert found[3] > 0.15
    assert found[4] > found[3]
    one = np.array(told["few"]["shares"])
    assert stability(one, one, 100, 100) == 0.0
