"""The real server over HTTP: it answers, or gives the reason, and does not start if its answers would be wrong."""

import shutil
import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from serving.answering.predictor import Predictor
from serving.answering.requests import RankRequest, to_iso, to_microseconds
from tests.serving.bad_requests import BAD, Bad
from tests.serving.conftest import Refusing, is_refusal

pytestmark = [
    pytest.mark.xdist_group("serving"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # BentoML's words about what it imports
]

MAX_ANSWER_BYTES = 4096
SLOW = b"POST /rank HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 200\r\n\r\n{"


def test_it_ranks_as_the_predictor_does(server: httpx.Client, predictor: Predictor) -> None:
    for golden in predictor.bundle.golden[:8]:
        request = {"user_id": golden.user_id, "candidates": golden.candidates, "k": 3, "at": to_iso(golden.at)}
        answer = server.post("/rank", json=request)
        assert answer.status_code == 200
        assert answer.json() == predictor.rank(RankRequest(**request)).model_dump()


@pytest.mark.parametrize("bad", BAD, ids=lambda bad: bad.name)
def test_a_bad_request_gets_a_4xx_that_says_why(server: httpx.Client, bad: Bad) -> None:
    headers = {} if bad.content_type is None else {"Content-Type": bad.content_type}
    answer = server.post("/rank", content=bad.body, headers=headers)
    assert answer.status_code == bad.status, answer.text[:500]
    assert bad.says in answer.text
    assert is_refusal(answer)
    assert len(answer.content) < MAX_ANSWER_BYTES


@pytest.mark.parametrize("text", ["🎈", "\u202e", "x" * 256, "𝔘" * 256, "'; drop table", "../../etc"])
def test_any_text_within_the_limits_may_be_an_id(server: httpx.Client, text: str) -> None:
    answer = server.post("/rank", json={"user_id": text, "candidates": [text, "b"]})
    assert answer.status_code == 200
    assert answer.json()["user_id"] == text
    assert answer.json()["cold_start_user"]
    assert text in {item["item_id"] for item in answer.json()["items"]}


@pytest.mark.parametrize(
    "context",
    [
        None,
        {},
        {"device": None, "is_subscriber": None, "reading_item_id": None},
        {"device": "📱", "is_subscriber": False, "reading_item_id": "nowhere"},
        {"device": "d" * 256, "is_subscriber": True, "reading_item_id": "𝔘" * 256},
    ],
    ids=["null", "empty", "of nulls", "unknown", "long"],
)
def test_any_context_within_the_limits_is_taken_and_a_model_trained_without_ignores_it(
    server: httpx.Client, predictor: Predictor, context: dict | None
) -> None:
    assert not predictor.bundle.scorer.spec.context
    golden = predictor.bundle.golden[0]
    request = {"user_id": golden.user_id, "candidates": golden.candidates, "at": to_iso(golden.at)}
    answer = server.post("/rank", json=request | {"context": context})
    assert answer.status_code == 200
    assert answer.json() == predictor.rank(RankRequest(**request)).model_dump()


def test_a_full_list_of_candidates_is_ranked(server: httpx.Client, predictor: Predictor) -> None:
    candidates = [f"unknown {n}" for n in range(predictor.limits.max_candidates)]
    answer = server.post("/rank", json={"user_id": "u", "candidates": candidates, "k": 2 * len(candidates)})
    assert len(answer.json()["items"]) == len(candidates)


def test_a_body_that_does_not_end_is_a_408_that_says_why(server: httpx.Client) -> None:
    with socket.create_connection(("127.0.0.1", server.base_url.port or 80), timeout=10) as slow:
        slow.sendall(SLOW)
        answer = slow.makefile("rb").read().decode()  # to the end: the server closes
    assert " 408 " in answer.partition("\r\n")[0]
    assert "not complete" in answer


def bodies(predictor: Predictor, num: int) -> dict[str, object]:
    """A request of so many candidates, all that are known first."""
    known = list(predictor.bundle.scorer.index_of)
    candidates = known + [f"unknown {n}" for n in range(predictor.limits.max_candidates)]
    return {"user_id": predictor.bundle.golden[0].user_id, "candidates": candidates[:num]}


def takes_s(server: httpx.Client, body: dict[str, object]) -> float:
    """How long one request takes on this machine as busy as it is now: the second longest of seven."""
    taken = [server.post("/rank", json=body).elapsed.total_seconds() for _ in range(7)]
    return sorted(taken)[-2]


def test_under_overload_all_is_answered_in_time_and_probes_do_not_wait(
    server: httpx.Client, predictor: Predictor
) -> None:
    """Of 40 callers at once MAX_IN_FLIGHT are answered one after another, and the rest are told so at once.

    The service gives up a request whose turn does not come within STORE_S (503), and one not answered within TIMEOUT_S
    (504). On a machine that needs more than STORE_S / MAX_IN_FLIGHT = 112 ms for one ranking that must happen to the
    last of a full queue: it is no fault, and was what this test saw of the longest lists on busy machines. So its lists
    are only as long as this machine ranks MAX_IN_FLIGHT of within a third of that time; then neither may come.
    """
    from serving.service import MAX_IN_FLIGHT, STORE_S

    whole = predictor.limits.max_candidates
    share = STORE_S / 3 / MAX_IN_FLIGHT / takes_s(server, bodies(predictor, whole))
    body = bodies(predictor, max(1, min(whole, int(whole * share))))

    def ask(_: int) -> httpx.Response:
        return server.post("/rank", json=body)

    with ThreadPoolExecutor(40) as callers:
        answers = [callers.submit(ask, number) for number in range(200)]
        num_probes = 0
        while not all(answer.done() for answer in answers):
            assert server.get("/livez").status_code == 200
            num_probes += not all(answer.done() for answer in answers)
    said: dict[int, list[str]] = {200: [], 429: []}
    for answer in answers:
        said.setdefault(answer.result().status_code, []).append(answer.result().text)
    assert set(said) == {200, 429}, {status: texts[0] for status, texts in said.items() if status >= 500}
    assert said[200]
    assert said[429]
    assert all("most at once" in text for text in said[429])
    assert num_probes > 3  # each was answered while requests waited: none stood behind all of them


def test_a_refused_request_leaves_nothing_in_the_log(made: Path, server: httpx.Client) -> None:
    log = made / f"serve-{server.base_url.port}.log"
    before = log.read_text()
    for body in ({"user_id": "secret-user", "candidates": [1]}, {"user_id": "s" * 300, "candidates": ["secret"]}):
        assert server.post("/rank", json=body).status_code == 400
    assert server.post("/rank", content=b"{secret", headers={"content-type": "application/json"}).status_code == 400
    assert log.read_text() == before


def test_info_says_what_is_served(server: httpx.Client, predictor: Predictor) -> None:
    told = server.get("/info").json()
    assert told | {"at": "", "beside": []} == predictor.info() | {"at": "", "beside": []}
    assert [(each["name"], each["model"]) for each in told["beside"]] == [("runner_up", "din")]
    assert abs(to_microseconds(told["at"]) - predictor.clock()) < 60_000_000  # the same clock in every process
    assert told["model_version"] == predictor.bundle.manifest.bundle_hash[:12]


def test_it_is_live_ready_and_measured(server: httpx.Client) -> None:
    assert [server.get(path).status_code for path in ("/livez", "/healthz", "/readyz")] == [200, 200, 200]
    assert server.post("/rank", json={"user_id": "u", "candidates": ["a"]}).status_code == 200  # what is measured
    told = server.get("/metrics").text
    names = ("live_rows", "live_bytes", "live_rows_limit", "tail_bytes", "rankings_kept_total", "rankings_lost_total")
    assert all(f"\nleitmotif_{name} " in told for name in names)


@pytest.mark.parametrize(
    ("method", "path", "status"), [("GET", "/rank", 405), ("PUT", "/rank", 405), ("GET", "/x", 404)]
)
def test_other_methods_and_paths_are_4xx(server: httpx.Client, method: str, path: str, status: int) -> None:
    assert server.request(method, path).status_code == status


def test_without_state_it_does_not_start_and_names_make_load(refusing: Refusing, tmp_path: Path) -> None:
    said = refusing(LEITMOTIF_STATE=str(tmp_path / "nothing"))
    assert "make load" in said
    assert "Traceback" not in said


def test_a_tampered_bundle_is_not_served(refusing: Refusing, bundle: Path) -> None:
    (bundle / "vocabulary.parquet").write_bytes(b"PAR1")
    assert "vocabulary.parquet changed" in refusing(LEITMOTIF_BUNDLE=str(bundle))


@pytest.mark.parametrize("name", ["stamp.json", "ids.json", "registry.db", "online.db"])
def test_a_damaged_state_is_said_in_one_message(refusing: Refusing, state: Path, tmp_path: Path, name: str) -> None:
    damaged = Path(shutil.copytree(state.resolve(), tmp_path / "feast"))
    (damaged / name).write_bytes(b"\xff\xfe not what it was")
    said = refusing(LEITMOTIF_STATE=str(damaged))
    assert "make load" in said
    assert said.count("Not serving") == 1
    assert "Traceback" not in said
