"""What a worker whose places are all taken does with further requests, without a server."""

import asyncio
import json
import time
from typing import Any

from serving.answering.requests import RankRequest
from serving.http.admission import Admission
from serving.http.crowd import MAX_WAIT_S, PER_S, Crowd, Pace

REQUEST = RankRequest(user_id="u", candidates=["a"])


class App:
    """Counts the requests that reach it."""

    def __init__(self) -> None:
        self.number = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.number += 1


async def told(crowd: Crowd, path: str = "/rank", method: str = "POST") -> list[dict[str, Any]]:
    """What is sent to a caller whose body never comes."""
    sent: list[dict[str, Any]] = []

    async def receive() -> Any:
        await asyncio.Event().wait()

    async def send(message: Any) -> None:
        sent.append(message)

    await crowd({"type": "http", "method": method, "path": path, "headers": []}, receive, send)
    return sent


def test_a_request_without_a_place_is_a_429_before_its_body_is_read() -> None:
    async def overload() -> None:
        admission, app = Admission(1, 60.0, 200), App()
        crowd = Crowd(app, lambda: admission)
        with admission.admitted(REQUEST):
            start, body = await told(crowd)
            headers = dict(start["headers"])
            assert (start["status"], headers[b"retry-after"]) == (429, b"1")
            assert headers[b"content-length"] == str(len(body["body"])).encode()
            error = json.loads(body["body"])["error"]
            assert (error["code"], error["field"]) == ("busy", None)
            assert "1 requests are in progress, the most at once" in error["message"]
            assert app.number == 0
        assert await told(crowd) == []
        assert app.number == 1

    asyncio.run(overload())


def test_what_takes_no_place_is_answered_however_full_it_is() -> None:
    async def overload() -> None:
        admission, app = Admission(1, 60.0, 200), App()
        crowd = Crowd(app, lambda: admission)
        with admission.admitted(REQUEST):
            for path, method in (("/livez", "GET"), ("/rank", "GET"), ("/nowhere", "POST")):
                assert await told(crowd, path, method) == []
        assert app.number == 3

    asyncio.run(overload())


def test_one_refusal_is_at_once_and_many_take_turns_up_to_a_limit() -> None:
    pace = Pace()
    assert pace.wait_s(100.0) == 0
    waits = [pace.wait_s(100.0) for _ in range(3)]
    assert [round(wait * PER_S) for wait in waits] == [1, 2, 3]
    assert max(pace.wait_s(100.0) for _ in range(10_000)) == MAX_WAIT_S
    assert pace.wait_s(100.0 + 2 * MAX_WAIT_S) == 0


def test_callers_who_ask_again_at_once_are_refused_at_the_pace() -> None:
    async def storm() -> int:
        admission, number = Admission(1, 60.0, 200), 0
        crowd = Crowd(App(), lambda: admission)

        async def ask() -> None:
            nonlocal number
            until = time.monotonic() + 0.5
            while time.monotonic() < until:
                await told(crowd)
                number += 1

        with admission.admitted(REQUEST):
            await asyncio.gather(*(ask() for _ in range(16)))
        return number

    assert 16 <= asyncio.run(storm()) <= 0.5 * PER_S + 2 * 16
