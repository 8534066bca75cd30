"""The request log: bounded on the disk, never waited for, ranked again to the same scores; and a log without users."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from contracts.errors import InputError
from serving import replay
from serving.answering.predictor import Predictor, open_here
from serving.answering.requests import to_iso
from serving.watching import metrics
from serving.watching.request_log import MAX_WAITING, NUM_FILES, RequestLog, read_log
from tests.serving.conftest import Refusing, serving

pytestmark = [
    pytest.mark.xdist_group("serving"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # BentoML's words about what it imports
]


def until(there: Callable[[], bool]) -> None:
    limit = time.monotonic() + 10
    while not there():
        assert time.monotonic() < limit
        time.sleep(0.05)


class Logged(NamedTuple):
    """What a service that has ended was asked, and what it left."""

    told: list[tuple[str, list[str], str]]  # users, candidates and times of the first requests
    shown: dict[str, Any]  # the answer of /recommend
    folder: Path  # its request log
    text: str  # its log


@pytest.fixture(scope="module")
def logged(house: Path, predictor: Predictor, tmp_path_factory: pytest.TempPathFactory) -> Logged:
    """By a service that keeps a request log, writes JSON lines and exports spans."""
    folder = tmp_path_factory.mktemp("logged") / "log"
    told = [(golden.user_id, golden.candidates, to_iso(golden.at)) for golden in predictor.bundle.golden[:5]]
    kept = {"LEITMOTIF_REQUEST_LOG": str(folder), "LEITMOTIF_LOG": "json", "OTEL_TRACES_EXPORTER": "console"}
    with serving(house, **kept) as server:
        for user, candidates, at in told:
            asked = {"user_id": user, "candidates": candidates, "at": at, "k": 2}
            server.post("/rank", json=asked, headers={"x-request-id": f"by-{at}"}).raise_for_status()
        user = told[0][0]
        shown = server.post("/recommend", json={"user_id": user, "k": 7}).raise_for_status().json()
        click = {"user_id": user, "item_id": shown["items"][0]["item_id"], "impression_id": shown["impression_id"]}
        server.post("/events", json={"events": [click]}).raise_for_status()
        server.post("/rank", json={"user_id": "nobody", "candidates": ["x"], "suppose": ["y"]}).raise_for_status()
        server.post("/rank", json={"user_id": "nobody"})  # a refusal is no ranking
        server.get(f"/users/{user}/themes").raise_for_status()
    return Logged(told, shown, folder, (house / f"serve-{server.base_url.port}.log").read_text())


def test_log_lines_are_json_with_request_ids_but_no_users_and_spans_are_exported(logged: Logged) -> None:
    for user, candidates, _ in logged.told:
        assert not [name for name in (user, *candidates, "nobody") if name in logged.text]
    lines = [json.loads(line) for line in logged.text.splitlines() if line.startswith('{"level"')]
    requests = [line for line in lines if line["logger"] == "leitmotif.request" and line["route"] == "/rank"]
    assert [line["request_id"] for line in requests[:5]] == [f"by-{at}" for _, _, at in logged.told]
    assert [line["status"] for line in requests] == [200] * 6 + [400]
    assert all(line["took_ms"] >= line["stages_ms"]["scores"] for line in requests[:6])
    assert '"name": "POST /rank"' in logged.text
    assert "request_id" not in next(line for line in lines if line["logger"].startswith("bentoml"))


def test_what_was_answered_is_ranked_again_to_the_same_scores(
    logged: Logged, house: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    told, shown, folder, _ = logged
    lines = list(read_log(folder))
    assert [line["request_id"] for line in lines[:5]] == [f"by-{at}" for _, _, at in told]
    assert [line["route"] for line in lines] == ["/rank"] * 5 + ["/recommend", "/rank"]
    assert lines[5]["impression_id"] == shown["impression_id"]
    assert lines[5]["scores"] == {item["item_id"]: item["score"] for item in shown["items"]}
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o600}

    monkeypatch.chdir(house)
    monkeypatch.setattr("sys.argv", ["replay", str(folder)])
    with pytest.raises(SystemExit) as ended:
        replay.main()  # the click came after the list: it changes nothing of it
    assert (ended.value.code, capsys.readouterr().out) == (0, "same scores: 7\n")

    found = open_here()
    assert all(
        line["scores"].items() <= replay.rescore(found, line).items() for line in lines if line["route"] == "/rank"
    )
    (path,) = folder.iterdir()
    lines[0]["scores"] = {item: score + 1e-4 for item, score in lines[0]["scores"].items()}
    lines[1]["model_version"] = "another"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"cut off')
    with pytest.raises(SystemExit) as ended:
        replay.main()
    assert (ended.value.code, capsys.readouterr().out) == (
        3, "another model or load: 1; other scores: 1; same scores: 5\n")  # fmt: skip


def test_it_never_takes_more_than_it_may_and_keeps_the_newest(tmp_path: Path) -> None:
    log = RequestLog(tmp_path, 3, max_mb=NUM_FILES)  # a megabyte a file
    lines = 40
    for number in range(lines):
        log.keep({"number": number, "long": "x" * 500_000})
    log.close()
    kept = [line["number"] for line in read_log(tmp_path)]
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= NUM_FILES * 2**20
    assert kept == list(range(lines - len(kept), lines))
    assert len(kept) >= NUM_FILES
    assert {path.name.split(".")[0] for path in tmp_path.iterdir()} == {"requests-3"}


def test_a_half_line_of_a_killed_worker_joins_no_other_and_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(2):
        log = RequestLog(tmp_path, 1, max_mb=NUM_FILES)
        log.keep({"number": number})
        log.close()
        if number == 0:  # killed within a character
            with (tmp_path / "requests-1.jsonl").open("ab") as file:
                file.write('{"asked":"é'.encode()[:-1])
    assert list(read_log(tmp_path)) == [{"number": 0}, {"number": 1}]
    assert [record.getMessage().partition(" of ")[0] for record in caplog.records] == ["1 partial lines"]


def test_every_file_is_its_owners_alone(tmp_path: Path) -> None:
    log = RequestLog(tmp_path, 1, max_mb=NUM_FILES)
    for _ in range(3):
        log.keep({"long": "x" * 900_000})
    log.close()
    assert {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {
        f"requests-1.jsonl{turn}": 0o600 for turn in ("", ".1", ".2")
    }


def unlogged() -> float:
    text = metrics.exposition().decode()
    return float(
        next(line.split()[1] for line in text.splitlines() if line.startswith("leitmotif_requests_unlogged_total"))
    )


def test_a_disk_that_takes_nothing_is_counted_and_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    log, before = RequestLog(tmp_path / "gone", 0, 8), unlogged()
    for path in (tmp_path / "gone").iterdir():
        path.unlink()
    (tmp_path / "gone").rmdir()
    for _ in range(3):
        log.keep({})
    log.close()
    assert unlogged() - before == 3
    assert [record.getMessage() for record in caplog.records] == [
        "The request log cannot be written; rankings continue without it"
    ]


def test_a_disk_that_is_slow_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log, before = RequestLog(tmp_path, 0, 8), unlogged()

    def slow(_: Any) -> None:
        time.sleep(0.5)

    monkeypatch.setattr(log._handler, "emit", slow)
    began = time.monotonic()
    for _ in range(MAX_WAITING + 10):
        log.keep({})
    assert time.monotonic() - began < 0.4
    assert unlogged() - before >= 9


@pytest.mark.parametrize("size", ["0", "7", "-1", "x", "8.5"])
def test_a_size_that_is_none_is_said(size: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LEITMOTIF_REQUEST_LOG", str(tmp_path))
    monkeypatch.setenv("LEITMOTIF_REQUEST_LOG_MB", size)
    with pytest.raises(InputError, match="LEITMOTIF_REQUEST_LOG_MB is"):
        RequestLog.read(None)


def test_a_folder_that_cannot_be_one_is_one_line(refusing: Refusing, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    said = refusing(LEITMOTIF_REQUEST_LOG=str(tmp_path / "file" / "log"))
    assert "LEITMOTIF_REQUEST_LOG is" in said
    assert "where no request log can be written" in said
    assert "Traceback" not in said
