"""What the gate does with bodies that come slowly and requests that come too fast, without a server."""

import asyncio
import json
from typing import Any

from serving.gate import Gate

BODY = {"type": "http.request", "body": b"{}", "more_body": False}


class Caller:
    """One POST: its ASGI side and the answer it got."""

    def __init__(self, *messages: dict[str, Any], headers: tuple[tuple[bytes, bytes], ...] = ()) -> None:
        self.scope = {"type": "http", "method": "POST", "path": "/rank", "headers": list(headers)}
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
    """An application that answers each request with its body once it is let go."""

    def __init__(self) -> None:
        self.go = asyncio.Event()

    async def __call__(self, _: Any, receive: Any, send: Any) -> None:
        body = (await receive())["body"]
        await self.go.wait()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": body})


def gated(app: Any) -> Gate:
    return Gate(app, max_body_bytes=lambda _: 100, body_timeout_s=0.05, max_in_flight=2)


def test_a_body_that_does_not_end_is_a_408_and_the_connection_closes() -> None:
    caller = Caller({"type": "http.request", "body": b"{", "more_body": True})
    status, answer = asyncio.run(caller.call(gated(None)))
    assert status == 408
    assert "0.05 s" in answer["error"]
    assert (b"connection", b"close") in caller.sent[0]["headers"]


def test_one_request_too_many_is_a_429_until_another_is_answered() -> None:
    async def overload() -> None:
        app = Held()
        gate = gated(app)
        held = [asyncio.ensure_future(Caller(BODY).call(gate)) for _ in range(2)]
        await asyncio.sleep(0.01)
        status, answer = await Caller(BODY).call(gate)
        assert status == 429
        assert "2 requests" in answer["error"]
        app.go.set()
        assert [await each for each in held] == [(200, {})] * 2
        assert await Caller(BODY).call(gate) == (200, {})

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
