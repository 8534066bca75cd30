"""The real server and untrusted callers: its address, its host names, and bodies that must not stop it."""

import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import psutil
import pytest

from serving.answering.away import RETRY_S
from serving.answering.predictor import Predictor
from tests.clones import run
from tests.serving.conftest import is_refusal

pytestmark = pytest.mark.xdist_group("serving")

JSON = {"content-type": "application/json"}
EVENT = b'{"user_id": "u", "item_id": "i", "x": 1}'
BODIES = {
    "a million whole numbers": (
        "/rank",
        b'{"user_id": "u", "candidates": [' + b",".join([b"1"] * 1_000_000) + b"]}",
        413,
    ),
    "half a million": ("/rank", b'{"user_id": "u", "candidates": [' + b",".join([b"1"] * 500_000) + b"]}", 400),
    "as many as are ranked": ("/rank", b'{"user_id": "u", "candidates": [' + b",".join([b"1"] * 1000) + b"]}", 400),
    "events beyond all limits": ("/events", b'{"events": [' + b",".join([EVENT] * 150_000) + b"]}", 413),
    "events of wrong fields": ("/events", b'{"events": [' + b",".join([EVENT] * 1000) + b"]}", 400),
    "empty events": ("/events", b'{"events": [' + b",".join([b"{}"] * 1_800_000) + b"]}", 400),
    "unknown keys": ("/rank", b"{" + b",".join(b'"%d":1' % n for n in range(80_000)) + b"}", 400),
    "one long key": ("/rank", b'{"' + b"k" * 1_000_000 + b'": 1}', 400),
    "one long id": ("/events", b'{"events": [{"user_id": "' + b"u" * 5_000_000 + b'", "item_id": "i"}]}', 400),
    "nested without end": ("/events", b'{"events": ' + b"[" * 5_000_000, 400),
}


def listening(port: int) -> set[str]:
    """The addresses on which a port of this machine is open."""
    return {
        each.laddr.ip
        for each in psutil.net_connections("tcp")
        if each.status == psutil.CONN_LISTEN and each.laddr.port == port
    }


@contextmanager
def probing(server: httpx.Client) -> Iterator[list[float]]:
    """Ask /livez all the time; how long each answer took, in seconds."""
    waits: list[float] = []
    done = threading.Event()

    def probe() -> None:
        with httpx.Client(base_url=server.base_url, timeout=60) as client:
            while not done.is_set():
                began = time.monotonic()
                assert client.get("/livez").status_code == 200
                waits.append(time.monotonic() - began)
                time.sleep(0.01)

    thread = threading.Thread(target=probe)
    thread.start()
    try:
        yield waits
    finally:
        done.set()
        thread.join()


@pytest.mark.parametrize("name", BODIES)
def test_a_hostile_body_is_refused_briefly_and_probes_are_answered_meanwhile(server: httpx.Client, name: str) -> None:
    path, body, status = BODIES[name]
    with probing(server) as waits:
        answer = server.post(path, content=body, headers=JSON)
    assert answer.status_code == status, answer.text[:500]
    assert is_refusal(answer)
    assert len(answer.content) < 1000
    assert max(waits, default=0) < 5  # 25 s and more before; a busy machine makes it more than the .4 s measured


def test_it_listens_on_loopback_alone(server: httpx.Client) -> None:
    assert listening(server.base_url.port or 80) == {"127.0.0.1"}


def test_make_serve_names_an_address_only_when_told(made: Path) -> None:
    def command(*told: str) -> str:
        lines = run(made, "make", "-n", "serve", *told, HOST="from.the.shell").stdout.splitlines()
        return next(line for line in lines if "bentoml serve" in line)

    assert "--host" not in command()
    assert "--host '10.0.0.5'" in command("HOST=10.0.0.5")


@pytest.mark.parametrize("host", ["evil.example", "localhost.evil.example:3000", "127.0.0.1.evil.example", ""])
def test_a_name_that_is_not_its_own_is_refused(server: httpx.Client, host: str) -> None:
    for answer in (
        server.get("/info", headers={"host": host}),
        server.get("/metrics", headers={"host": host}),
        server.post("/rank", json={"user_id": "u", "candidates": ["a"]}, headers={"host": host}),
    ):
        assert answer.status_code == 421
        assert "serve.allowed_hosts" in answer.json()["error"]["message"]
    assert server.get("/livez", headers={"host": host}).status_code == 200


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:80", "[::1]:3000", "192.168.7.7"])
def test_localhost_and_addresses_are_its_own(server: httpx.Client, host: str) -> None:
    assert server.get("/info", headers={"host": host}).status_code == 200


@pytest.mark.parametrize("path", ["/rank", "/events"])
@pytest.mark.parametrize(
    "content_type", [None, "", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data"]
)
def test_what_a_page_of_a_stranger_can_send_is_not_read(
    server: httpx.Client, path: str, content_type: str | None
) -> None:
    headers = {"origin": "http://evil.example"} | ({} if content_type is None else {"content-type": content_type})
    answer = server.post(path, content=b'{"user_id": "u", "candidates": ["a"]}', headers=headers)
    assert answer.status_code == 415
    asked = server.options(path, headers={"origin": "http://evil.example", "access-control-request-method": "POST"})
    assert asked.status_code == 405
    assert not [name for name in asked.headers if name.startswith("access-control")]


@pytest.mark.parametrize(
    ("method", "path", "status", "says"),
    [
        ("GET", "/rank", 405, "POST"),
        ("DELETE", "/events", 405, "POST"),
        ("POST", "/info", 405, "GET"),
        ("PATCH", "/livez", 405, "GET"),
        ("GET", "/nowhere", 404, "GET /info"),
        ("POST", "/nowhere", 404, "POST /rank"),
        ("GET", "//info", 404, "GET /info"),
        ("GET", "/" + "x" * 5000, 404, "GET /info"),
    ],
)
def test_other_methods_and_paths_say_in_json_what_there_is(
    server: httpx.Client, method: str, path: str, status: int, says: str
) -> None:
    answer = server.request(method, server.base_url.copy_with(raw_path=path.encode()))
    assert answer.status_code == status
    assert says in answer.json()["error"]["message"]
    assert len(answer.content) < 1000
    if status == 405:
        assert says in answer.headers["allow"]


def test_head_a_slash_and_any_accept_header_are_answered_as_one_expects(server: httpx.Client) -> None:
    head = server.head("/info")
    assert (head.status_code, head.content) == (200, b"")
    assert server.head("/rank").status_code == 405
    slashed, info = server.get("/info/", follow_redirects=True).json(), server.get("/info").json()
    assert slashed | {"at": info["at"]} == info  # its clock goes on
    body = {"user_id": "u", "candidates": ["a"]}
    assert server.post("/rank/", json=body, follow_redirects=True).status_code == 200
    for accept in ("text/html", "application/xml;q=0.9", "*/*", "nonsense"):
        answer = server.post("/rank", json=body, headers={"accept": accept})
        assert (answer.status_code, answer.headers["content-type"]) == (200, "application/json")


def test_it_listens_and_answers_to_what_it_was_told(keeping: httpx.Client) -> None:
    assert listening(keeping.base_url.port or 80) == {"127.0.0.2"}
    for name, status in (("shop.example", 200), ("a.inner", 200), ("localhost", 421)):
        assert keeping.get("/info", headers={"host": name}).status_code == status


def test_a_dead_store_is_said_in_words_and_by_readyz_until_it_lives_again(
    keeping: httpx.Client, lived: Path, predictor: Predictor
) -> None:
    """The live events' file is spoiled under the server, and put back."""
    golden = predictor.bundle.golden[0]
    event = {"events": [{"user_id": golden.user_id, "item_id": golden.candidates[0]}]}
    assert keeping.post("/events", json=event).status_code == 200
    (lived / "live").rename(lived / "kept")
    (lived / "live").mkdir()
    (lived / "live" / "simulator.db").write_bytes(b"not a database at all" * 500)
    asked = {"user_id": golden.user_id, "candidates": golden.candidates, "explain": True}
    for _ in range(3):
        answer = keeping.post("/rank", json=asked)
        assert answer.status_code == 200, answer.text
        told = answer.json()
        assert told["history"] == {"known": False, "length": 0, "newest_event_at": None, "store_away": True}
        assert (told["user_id"], told["cold_start_user"], told["themes"]) == (golden.user_id, True, [])
        assert told["impression_id"] is None
        assert {item["item_id"] for item in told["items"]} == set(golden.candidates)
        assert all(item["reasons"]["history"] == [] for item in told["items"])
    for answer in (
        keeping.get("/readyz"),
        keeping.post("/events", json=event),
        keeping.get(f"/users/{golden.user_id}/themes"),
    ):
        assert answer.status_code == 503
        assert answer.json()["error"]["code"] == "unavailable"
        assert "simulator.db" in answer.json()["error"]["message"]
        assert "\n" not in answer.json()["error"]["message"]
    assert keeping.get("/livez").status_code == 200
    shutil.rmtree(lived / "live")
    (lived / "kept").rename(lived / "live")
    assert keeping.get("/readyz").status_code == 200
    time.sleep(RETRY_S)
    again = keeping.post("/rank", json=asked).json()
    assert again["history"]["known"]
    assert not again["history"]["store_away"]
    assert again["impression_id"] is not None
