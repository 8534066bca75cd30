"""All errors have one form: those of BentoML, its router, failing routes and timeouts."""

import asyncio
import json
from typing import Any

import pytest
from starlette.responses import JSONResponse, PlainTextResponse, Response

from serving.answering.refusal import CODES, Refusal, read_refusal
from serving.http.form import InTime, in_one_form, refuse

SCOPE = {"type": "http", "method": "GET", "path": "/x", "headers": []}


async def nothing() -> Any:
    return await asyncio.Event().wait()


class Sent:
    """What a caller gets."""

    def __init__(self) -> None:
        self.messages: list[Any] = []

    async def __call__(self, message: Any) -> None:
        self.messages.append(message)

    @property
    def status(self) -> int:
        return self.messages[0]["status"]

    @property
    def headers(self) -> dict[bytes, bytes]:
        return dict(self.messages[0]["headers"])

    @property
    def body(self) -> bytes:
        return b"".join(each.get("body", b"") for each in self.messages[1:])


def formed(answer: Response) -> Sent:
    sent = Sent()
    asyncio.run(answer(dict(SCOPE), nothing, in_one_form(SCOPE, sent, "There is nothing else.")))
    return sent


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (PlainTextResponse("Not Found", 404), "nothing at /x"),
        (PlainTextResponse("", 405, {"allow": "PUT"}), "/x takes PUT, not GET"),
        (PlainTextResponse("two\nlines", 400), "two lines"),
        (JSONResponse({"error": "Too many requests"}, 429), "Too many requests"),
        (JSONResponse([{"error": "a list of BentoML"}], 415), "a list of BentoML"),
        (JSONResponse({"detail": [1]}, 422), "[1]"),
        (Response(b"", 503), "Service Unavailable"),
        (Response(b"\xff" * 9, 500), "�"),
        (JSONResponse({"error": {"code": 1, "message": "m", "field": None}}, 418), "code"),
    ],
)
def test_what_others_refuse_is_put_into_the_form(answer: Response, says: str) -> None:
    sent = formed(answer)
    told = read_refusal(sent.body)
    assert told is not None
    assert says in told.message
    assert (sent.status, told.code) == (answer.status_code, CODES.get(answer.status_code, "refused"))
    assert int(sent.headers[b"content-length"]) == len(sent.body)
    assert (b"retry-after" in sent.headers) == (answer.status_code in (429, 503))
    assert sent.headers.get(b"allow") == (b"PUT" if answer.status_code == 405 else None)


def test_what_is_no_refusal_and_one_of_ours_pass_as_they_are() -> None:
    own = Refusal(429, "later", "a.b", retry_after_s=7)
    passed = formed(Response(own.body(), 429, own.headers(), media_type="application/json"))
    assert json.loads(passed.body) == {"error": {"code": "busy", "message": "later", "field": "a.b"}}
    assert passed.headers[b"retry-after"] == b"7"
    assert formed(PlainTextResponse("\n")).body == b"\n"


async def given_up(limit_s: float, *parts_after_s: float, fails: bool = False) -> Sent:
    """What a caller gets of an application that answers in parts, each after a while, and then may fail."""
    sent = Sent()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        for number, after_s in enumerate(parts_after_s):
            await asyncio.sleep(after_s)
            if not number:
                await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"x", "more_body": number + 1 < len(parts_after_s)})
        if fails:
            raise TimeoutError("of its own")

    await InTime(app, limit_s)(dict(SCOPE), nothing, sent)
    return sent


def test_what_has_no_answer_in_time_is_a_504_and_what_has_begun_is_ended() -> None:
    late = asyncio.run(given_up(0.05, 5))
    assert (late.status, read_refusal(late.body)) == (
        504,
        ("too_slow", "There was no answer within 0.05 s. Send it again later.", None),
    )
    assert asyncio.run(given_up(0.05, 0, 0.1, 0.1)).body == b"xxx"


def test_what_fails_is_a_500_in_the_form_unless_it_has_begun(caplog: pytest.LogCaptureFixture) -> None:
    failed = asyncio.run(given_up(5, fails=True))
    assert failed.status == 500
    assert read_refusal(failed.body) is not None
    assert "of its own" in caplog.text
    with pytest.raises(TimeoutError):
        asyncio.run(given_up(5, 0, fails=True))


def test_a_refusal_that_goes_on_being_read_says_its_length() -> None:
    sent = Sent()
    asyncio.run(refuse(sent, Refusal(408, "slow"), [(b"connection", b"close")], is_whole=False))
    assert sent.messages[1]["more_body"]
    assert int(sent.headers[b"content-length"]) == len(sent.body)
    assert sent.headers[b"connection"] == b"close"
