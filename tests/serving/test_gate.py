"""What the gate does with bodies that come slowly and requests that come too fast, without a server."""

import asyncio
import json
from typing import Any

import pytest
from starlette.responses import Response

from serving.http.admission import Admission
from serving.http.gate import READ, Door, Gate
from serving.http.rate import Rate
from serving.http.tokens import Tokens
from serving.params import ServeParams
from tests.serving.limits import RETRIEVAL

BODY = {"type": "http.request", "body": b'{"user_id": "u", "candidates": ["a"]}', "more_body": False}
TYPE = (b"content-type", b"application/json")
LIMITS = ServeParams(
    clock="log_end",
    num_golden_requests=1,
    max_candidates=3,
    max_id_length=5,
    max_events=3,
    max_future_s=60,
    log_exposures=False,
    max_exposed=3,
    max_live_rows=3,
    allowed_hosts=["localhost"],
    num_threads=1,
    retrieval=RETRIEVAL,
)


class Caller:
    """One POST: its ASGI side and the answer it got."""

    def __init__(self, *messages: dict[str, Any], headers: tuple[tuple[bytes, bytes], ...] = (TYPE,)) -> None:
        host = (b"host", b"localhost:3000")
        self.scope = {"type": "http", "method": "POST", "path": "/rank", "headers": [host, *headers]}
        self.messages = list(messages)
        self.sent: list[Any] = []

    async def receive(self) -> Any:
        return self.messages.pop(0) if self.messages else await asyncio.Event().wait()

    async def send(self, message: Any) -> None:
        self.sent.append(message)

    async def call(self, gate: Gate) -> tuple[int, dict[str, Any]]:
        await gate(self.scope, self.receive, self.send)
        return self.sent[0]["status"], json.loads(self.sent[1]["body"])


class Held:
    """An application that answers each request with what was read of it once it is let go."""

    def __init__(self) -> None:
        self.go = asyncio.Event()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await self.go.wait()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": json.dumps(scope[READ].candidates).encode()})


def gated(app: Any) -> Gate:
    door = Door(LIMITS, ["localhost"], Tokens((), False), Rate(None), Rate.of_guesses(), Admission(2, 60, 200))
    return Gate(app, lambda: door, body_timeout_s=0.05)


def test_a_gate_that_is_given_an_answer_sends_it_and_asks_nobody_behind_it() -> None:
    async def answer(message: Any) -> Any:
        return Response(b'{"refused": 1}', 503) if message.k else message

    door = Door(LIMITS, ["localhost"], Tokens((), False), Rate(None), Rate.of_guesses(), Admission(2, 60, 200))
    gate = Gate(Held(), lambda: door, 0.05, answer)
    status, told = asyncio.run(Caller(BODY).call(gate))
    assert (status, told["user_id"], told["candidates"]) == (200, "u", ["a"])
    other = BODY | {"body": b'{"user_id": "u", "candidates": ["a"], "k": 1}'}
    status, told = asyncio.run(Caller(other).call(gate))
    assert (status, set(told)) == (503, {"error"})  # a foreign body takes our form
    assert door.admission.num_requests == 0


def test_a_body_that_does_not_end_is_a_408_and_the_connection_closes() -> None:
    caller = Caller({"type": "http.request", "body": b"{", "more_body": True})
    status, answer = asyncio.run(caller.call(gated(None)))
    assert status == 408
    assert "0.05 s" in answer["error"]["message"]
    assert (b"connection", b"close") in caller.sent[0]["headers"]


def test_one_request_too_many_is_a_429_until_another_is_answered() -> None:
    async def overload() -> None:
        app = Held()
        gate = gated(app)
        held = [asyncio.ensure_future(Caller(BODY).call(gate)) for _ in range(2)]
        await asyncio.sleep(0.01)
        status, answer = await Caller(BODY).call(gate)
        assert status == 429
        assert "2 requests" in answer["error"]["message"]
        app.go.set()
        assert [await each for each in held] == [(200, ["a"])] * 2
        assert await Caller(BODY).call(gate) == (200, ["a"])

    asyncio.run(overload())


def test_a_request_given_up_frees_its_place() -> None:
    async def give_up() -> None:
        app = Held()
        gate = gated(app)
        held = [asyncio.ensure_future(Caller(BODY).call(gate)) for _ in range(2)]
        await asyncio.sleep(0.01)
        for each in held:
            each.cancel()
        await asyncio.wait(held)
        app.go.set()
        assert (await Caller(BODY).call(gate))[0] == 200

    asyncio.run(give_up())


def test_of_two_content_types_the_first_counts_as_in_bentoml() -> None:
    types = ((b"content-type", b"multipart/form-data"), (b"content-type", b"application/json"))
    assert asyncio.run(Caller(BODY, headers=types).call(gated(None)))[0] == 415


def test_bodies_that_come_slowly_are_bounded_in_number() -> None:
    async def flood() -> None:
        gate = gated(None)
        begun = {"type": "http.request", "body": b"{", "more_body": True}
        slow = [asyncio.ensure_future(Caller(begun).call(gate)) for _ in range(8)]
        await asyncio.sleep(0.01)
        status, answer = await Caller(begun).call(gate)
        assert status == 429
        assert "8 requests are being received" in answer["error"]["message"]
        assert [(await each)[0] for each in slow] == [408] * 8

    asyncio.run(flood())


def test_a_length_beyond_the_limit_is_refused_before_the_body_is_read() -> None:
    class Checked(Caller):
        async def receive(self) -> Any:
            assert self.sent, "nothing is read before the answer"
            return await super().receive()

    length = (b"content-length", b"1000000000000")
    status, answer = asyncio.run(Checked(BODY, headers=(TYPE, length)).call(gated(None)))
    assert status == 413
    assert "bytes" in answer["error"]["message"]


@pytest.mark.parametrize("told", [b"charset*" + b"9" * 5_000 + b"=x", b"charset*0*=utf-8''a; charset*" + b"1" * 9_999])
def test_a_content_type_that_python_cannot_read_is_a_415(told: bytes) -> None:
    caller = Caller(BODY, headers=((b"content-type", b"application/json; " + told),))
    status, answer = asyncio.run(caller.call(gated(None)))
    assert (status, answer["error"]["code"]) == (415, "not_json")
    assert len(answer["error"]["message"]) < 300
