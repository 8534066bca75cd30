"""The client: typed messages of the real service, one kind of exception, and patience where the service asks for it."""

import contextlib
import http.server
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import httpx
import pytest

from serving.answering.predictor import Predictor
from serving.answering.recommend import RecommendRequest, recommend
from serving.answering.refusal import Refusal
from serving.answering.requests import EventIn, RankRequest, RequestContext, to_iso
from serving.answering.users import ThemesRequest, user_themes
from serving.client import NOT_THE_SERVICE, UNREACHABLE, Client, ServiceError

pytestmark = pytest.mark.xdist_group("serving")


def test_what_it_returns_is_what_the_predictor_says(server: httpx.Client, predictor: Predictor) -> None:
    golden = predictor.bundle.golden[0]
    asked = RankRequest(user_id=golden.user_id, candidates=golden.candidates, at=to_iso(golden.at), k=2, explain=True)
    with Client(str(server.base_url)) as client:
        got = client.rank(asked.user_id, asked.candidates, k=2, at=asked.at, explain=True, context=RequestContext())
        assert got == predictor.rank(asked)
        themes = user_themes(predictor, ThemesRequest(user_id=asked.user_id, at=asked.at))
        assert client.themes(asked.user_id, asked.at) == themes
        assert client.info()["model_version"] == got.model_version
        assert client.users(golden.user_id, 5)[0] == golden.user_id
        assert client.ready()


def test_recommendations_and_items_are_typed_too(server: httpx.Client, predictor: Predictor) -> None:
    golden = predictor.bundle.golden[0]
    asked = RecommendRequest(user_id=golden.user_id, k=5, at=to_iso(golden.at), diversity=0.0)
    with Client(str(server.base_url)) as client:
        got = client.recommend(golden.user_id, k=5, at=asked.at, diversity=0.0)
        assert got == recommend(predictor, asked).reply
        item = got.items[0].item_id
        assert [each.known for each in client.items([item, "nope"])] == [True, False]
        assert item not in {each.item_id for each in client.similar(item, 3).items}
        with pytest.raises(ServiceError, match="knows no item") as refused:
            client.similar("a/nope")
        assert (refused.value.status, refused.value.code) == (404, "not_found")
        with pytest.raises(ServiceError, match="at least 1 item") as refused:
            client.items([])
        assert refused.value.field == "ids"


@pytest.mark.parametrize("name", ["a/b", "..", ".", "ü 🎈", "%2F", "x?y#z"])
def test_any_id_may_stand_in_a_path(server: httpx.Client, name: str) -> None:
    with Client(str(server.base_url)) as client:
        assert client.themes(name).user_id == name


def test_a_refusal_says_code_sentence_and_field(server: httpx.Client) -> None:
    with Client(str(server.base_url)) as client:
        with pytest.raises(ServiceError, match="ISO 8601") as refused:
            client.rank("u", ["i"], at="soon")
        assert (refused.value.status, refused.value.code, refused.value.field) == (400, "invalid_request", "at")
        with pytest.raises(ServiceError) as refused:
            client._object("GET", "/nowhere")
        assert (refused.value.status, refused.value.code, refused.value.field) == (404, "not_found", None)


def test_events_without_ids_are_stored_once_however_often_the_client_sends_them(
    keeping: httpx.Client,
) -> None:
    with Client(str(keeping.base_url)) as client:
        first, second = (client.events([EventIn(user_id="client", item_id="i00001")]) for _ in range(2))
        assert (first.num_new, second.num_new) == (1, 1)
        shown = client.rank("client", ["i00001", "i00002"])
        outcome = EventIn(user_id="client", item_id="i00002", impression_id=shown.impression_id)
        fates = [client.events([outcome]).events[0].fate for _ in range(2)]
    assert first.events[0].event_id != second.events[0].event_id
    assert fates == ["new", "repeated"]


Answer = Callable[[int], Refusal | bytes]


@contextmanager
def answering(answer: Answer, bodies: list[bytes] | None = None) -> Iterator[tuple[str, list[float]]]:
    """A service that answers the nth request as told; its address, and when it was asked. bodies: takes what came."""
    asked: list[float] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            asked.append(time.monotonic())
            told = answer(len(asked) - 1)
            body = told.body() if isinstance(told, Refusal) else told
            self.send_response(told.status if isinstance(told, Refusal) else 200)
            for name, value in told.headers().items() if isinstance(told, Refusal) else ():
                self.send_header(name, value)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            if bodies is not None:
                bodies.append(body)
            self.do_GET()

        def log_message(self, *_: object) -> None:
            """Nobody reads it."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as stand_in:
        thread = threading.Thread(target=stand_in.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{stand_in.server_port}", asked
        finally:
            stand_in.shutdown()
            thread.join()


@pytest.mark.parametrize("status", [429, 503])
def test_what_is_busy_is_asked_again_when_it_says(status: int) -> None:
    def answer(number: int) -> Refusal | bytes:
        return Refusal(status, "busy", retry_after_s=number) if number < 2 else b'{"users": ["u"], "new": 1}'

    with answering(answer) as (url, asked), Client(url) as client:
        assert client.users() == ["u"]
    assert len(asked) == 3
    assert asked[1] - asked[0] < 0.9 < asked[2] - asked[1]


@pytest.mark.parametrize(
    ("told", "is_named"),
    [
        ({}, True),
        ({"impression_id": "a page of the shop's own"}, True),  # the service names it anew each time
        ({"impression_id": "served-0-0-0"}, False),  # the service names it by the ranking
        ({"occurred_at": "2024-01-31T12:00:00Z"}, False),
        ({"event_id": "mine"}, True),
    ],
)
def test_an_event_that_has_to_be_sent_again_is_the_same_event(told: dict[str, str], is_named: bool) -> None:
    bodies: list[bytes] = []
    kept = b'{"events": [{"event_id": "x", "fate": "new"}], "num_new": 1}'
    busy = Refusal(503, "away", retry_after_s=0)
    with answering(lambda number: kept if number else busy, bodies) as (url, _), Client(url) as client:
        client.events([EventIn.model_validate({"user_id": "u", "item_id": "i"} | told)])
    first, second = bodies
    assert first == second
    assert ("event_id" in json.loads(first)["events"][0]) == is_named


def test_no_longer_than_the_deadline_and_what_is_at_fault_itself_never() -> None:
    with answering(lambda _: Refusal(503, "away", retry_after_s=30)) as (url, asked), Client(url) as client:
        with pytest.raises(ServiceError, match="503 unavailable: away"):
            client.users()
        assert not client.ready()
        assert len(asked) == 2
    with answering(lambda _: Refusal(429, "busy", retry_after_s=0)) as (url, asked), Client(url, None, 0.3) as client:
        began = time.monotonic()
        with pytest.raises(ServiceError, match="busy"):
            client.users()
        assert 0.2 < time.monotonic() - began < 5
    with answering(lambda _: Refusal(400, "no", "limit")) as (url, asked), Client(url) as client:
        with pytest.raises(ServiceError):
            client.users()
        assert len(asked) == 1


@pytest.mark.parametrize("body", [b"<html>", b"[]", b'{"users": 3}', b"\xff"])
def test_an_answer_of_another_program_is_said(body: bytes) -> None:
    with answering(lambda _: body) as (url, _), Client(url) as client, pytest.raises(ServiceError) as refused:
        client.users()
    assert refused.value.code == NOT_THE_SERVICE


def test_invalid_requests_are_not_sent_and_errors_do_not_repeat_tokens() -> None:
    lone = "\ud800"
    with Client("http://127.0.0.1:9") as client:
        for ask in (
            lambda: client.recommend("u", diversity=float("nan")),
            lambda: client.rank(lone, ["i"]),
            lambda: client.rank("u", ["i"], context={"device": {1}}),
            lambda: client.themes(lone),
        ):
            with pytest.raises(ServiceError, match="was not sent") as refused:
                ask()
            assert (refused.value.status, refused.value.code) == (0, "invalid_request")
    for token in ("secret-\u00fc-0123456789", "secret-0123456789\n"):
        with pytest.raises(ServiceError) as refused:
            Client("http://127.0.0.1:9", token)
        assert "secret" not in str(refused.value)


def test_an_address_without_a_service_is_an_error() -> None:
    with Client("http://127.0.0.1:9") as client, pytest.raises(ServiceError) as refused:
        client.users()
    assert (refused.value.status, refused.value.code) == (0, UNREACHABLE)
    for url in ("http://[::1", "nonsense", "http://127.0.0.1:x"):
        with pytest.raises(ServiceError) as refused, Client(url) as client:
            client.users()
        assert refused.value.code == NOT_THE_SERVICE
        assert json.dumps(refused.value.message)


@pytest.mark.parametrize("place", ["head", "body"])
def test_an_answer_that_comes_in_drops_is_not_waited_for_beyond_the_deadline(place: str) -> None:
    head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 100\r\n"

    def drip(listening: socket.socket) -> None:
        with listening.accept()[0] as caller, contextlib.suppress(OSError):
            caller.recv(65536)
            caller.sendall(head + (b"\r\n" if place == "body" else b""))
            for _ in range(60):
                time.sleep(0.1)
                caller.sendall(b" " if place == "body" else b"x")

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=drip, args=(listening,))
        thread.start()
        began = time.monotonic()
        with Client(f"http://127.0.0.1:{listening.getsockname()[1]}", None, 0.5) as client:
            with pytest.raises(ServiceError) as refused:
                client.users()
            took_s = time.monotonic() - began
        assert (refused.value.status, refused.value.code) == (0, UNREACHABLE)
        assert 0.4 < took_s < 3
        thread.join()
