"""HTTP requests -> those that the service can answer in time; the rest get a 4xx with the reason.

BentoML alone also reads forms and pickles and bodies of any size at any speed, answers to any host name and queues
without limit: there a malformed form is a 500, and a slow body or a long queue is a 504.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from email.message import Message as Header
from typing import Any, NamedTuple

from starlette.responses import Response

from contracts.errors import shorten
from serving.answering.refusal import JSON, MAX_NAME, Refusal
from serving.answering.requests import Message
from serving.http.admission import Admission
from serving.http.body import KINDS, Kind, read_message
from serving.http.form import in_one_form, refuse
from serving.http.hosts import is_known
from serving.http.rate import Rate
from serving.http.tokens import Tokens
from serving.params import ServeParams
from serving.watching.seen import seen

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]
Headers = Sequence[tuple[bytes, bytes]]

READ = "leitmotif.message"
"""Key of the ASGI scope for the validated message, so that BentoML does not parse the body again."""
PROBES = ("/livez", "/readyz", "/healthz")
"""Answered for any host name, since they reveal nothing."""
READ_FOR_EACH = 4
"""Bodies that may be received at once, per admitted request, which bounds their memory."""
PIECE = 65536
PLAIN = (JSON, f"{JSON}; charset=utf-8")
"""Content types that need no parsing."""
WAYS = f"There are {', '.join(f'POST {each}' for each in KINDS)} and GET /info; GET /docs.json describes all."
CLOSE = (b"connection", b"close")  # else the rest of the body would be read as the next request


class Door(NamedTuple):
    """The checks that each request must pass."""

    limits: ServeParams
    allowed_hosts: Sequence[str]
    tokens: Tokens
    rate: Rate
    guesses: Rate
    admission: Admission


class Gate:
    """ASGI middleware: admits known hosts and callers only, and as POST bodies UTF-8 JSON only, complete within
    body_timeout_s and of limited size. Answers 429 to what cannot be computed in time.

    answer: the reply to a validated message, or a response that is sent as it is. Without it the app behind the gate
    answers, and finds the message in the scope.
    """

    def __init__(
        self,
        app: App,
        door: Callable[[], Door],
        body_timeout_s: float,
        answer: Callable[[Message], Awaitable[Message | Response]] | None = None,
    ) -> None:
        self._app = app
        self._door = door
        self._body_timeout_s = body_timeout_s
        self._answer = answer
        self._reading = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on requests that are valid and can be answered in time; refuse others."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        kind = KINDS.get(scope["path"]) if scope["method"] == "POST" else None
        passed = in_one_form(scope, send, WAYS)
        try:
            door = self._door()
            self._check_caller(scope, door)
            if kind is None:
                await self._app(scope, receive, passed)
                return
            scope[READ] = await self._read(kind, scope["headers"], receive, door)
            with door.admission.admitted(scope[READ]):
                await self._pass_on(scope, receive, passed)
        except _Gone:
            pass
        except _Unread as refusal:
            seen().cause = refusal.cause
            await self._refuse_unread(refusal, receive, send)
        except Refusal as refusal:
            seen().cause = refusal.cause
            await refuse(send, refusal)

    async def _pass_on(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._answer is None:
            await self._app(scope, receive, send)
            return
        reply = await self._answer(scope[READ])
        response = reply if isinstance(reply, Response) else Response(reply.model_dump_json(), media_type=JSON)
        await response(scope, receive, send)

    def _check_caller(self, scope: Scope, door: Door) -> None:
        """Check host, token and rate. Raises _Unread, since the body has not been read."""
        self._check_host(scope, door)
        try:
            door.rate.take(_caller(scope, door))
        except Refusal as refusal:
            raise _Unread(refusal.status, refusal.reason, refusal.field, refusal.retry_after_s, refusal.cause) from None

    def _check_host(self, scope: Scope, door: Door) -> None:
        names = [value.decode("latin-1") for name, value in scope["headers"] if name == b"host"]
        if scope["path"] in PROBES or (names and all(is_known(name, door.allowed_hosts) for name in names)):
            return
        raise _Unread(
            421,
            f"The request is for host {', '.join(names)[:100]!r}, which this service does not answer to. Use "
            "localhost or an address, or add the host to serve.allowed_hosts (LEITMOTIF_ALLOWED_HOSTS).",
        )

    async def _read(self, kind: Kind, headers: Headers, receive: Receive, door: Door) -> Message:
        """The validated message. Raises Refusal, or _Gone if the caller has disconnected."""
        limit = kind.max_bytes(door.limits)
        _check_headers(headers, limit)
        if self._reading >= READ_FOR_EACH * door.admission.max_requests:
            raise _Unread(429, f"{self._reading} requests are being received, the most at once. Try again later.")
        self._reading += 1
        try:
            async with asyncio.timeout(self._body_timeout_s):
                body = await _read(receive, limit)
        except TimeoutError:
            reason = f"The body was not complete after {self._body_timeout_s:g} s. Send all of it at once."
            raise _Unread(408, reason) from None
        finally:
            self._reading -= 1
        if len(body) > limit:
            raise _too_large(limit)
        door.admission.check_number()
        return read_message(kind, body, door.limits)

    async def _refuse_unread(self, refusal: Refusal, receive: Receive, send: Send) -> None:
        """Answer, read on for at most body_timeout_s, close. A caller who is cut off while sending sees no answer."""
        await refuse(send, refusal, [CLOSE], is_whole=False)
        with contextlib.suppress(TimeoutError, _Gone):
            async with asyncio.timeout(self._body_timeout_s):
                while await _read(receive, PIECE):
                    pass
        await send({"type": "http.response.body", "body": b""})


def _caller(scope: Scope, door: Door) -> str:
    """The caller's key for rate limiting. Raises Refusal; a 429 if unknown tokens come too often from one address.

    Known tokens are answered even then: behind an ingress all callers share one address, and one that guesses tokens
    must not shut out the others. Tokens are protected from guessing by their length.
    """
    try:
        return door.tokens.check(scope)
    except Refusal as refusal:
        if refusal.status == 401 and any(name == b"authorization" for name, _ in scope["headers"]):
            door.guesses.take((scope.get("client") or [""])[0])
        raise


class _Gone(Exception):
    """The caller has disconnected."""


class _Unread(Refusal):
    """A refusal before the end of the body was read."""


def _too_large(limit: int) -> Refusal:
    return _Unread(
        413, f"The body is larger than {limit:,} bytes, the most that a request within the limits of /info needs."
    )


def _check_headers(headers: Headers, limit: int) -> None:
    """Refuse bodies of another type. The first of repeated headers counts, as in BentoML."""
    first = {name: value.decode("latin-1") for name, value in reversed(list(headers))}
    if (content_type := first.get(b"content-type", "")).lower() not in PLAIN:
        _check_type(content_type)
    if first.get(b"content-encoding", "identity") != "identity":
        raise _Unread(415, "The body is compressed; this service reads plain JSON.")
    length = first.get(b"content-length", "")
    if length.isascii() and length.isdigit() and (len(length) > 18 or int(length) > limit):
        raise _too_large(limit)


def _check_type(content_type: str) -> None:
    media_type = content_type.partition(";")[0].strip().lower()
    if not media_type:
        raise _Unread(415, f"The request has no content type; this service reads {JSON}. Send `content-type: {JSON}`.")
    if media_type != JSON:
        raise _Unread(415, f"The body is {media_type[:100]!r}; this service reads {JSON}.")
    charset = _charset(content_type)
    if charset not in ("utf-8", "utf8"):
        raise _Unread(415, f"The body is in charset {charset[:100]!r}; this service reads {JSON} in UTF-8.")


def _charset(content_type: str) -> str:
    """The charset, by default UTF-8. Raises _Unread where numbered parts of a parameter (RFC 2231) cannot be parsed."""
    described = Header()
    described["content-type"] = content_type
    try:
        return described.get_content_charset("utf-8")
    except ValueError as error:
        raise _Unread(
            415, f"The content type {shorten(content_type, MAX_NAME)!r} cannot be read; send `content-type: {JSON}`."
        ) from error


async def _read(receive: Receive, limit: int) -> bytes:
    """The body, or its first bytes if it exceeds the limit. Raises _Gone if the caller has disconnected."""
    body, more = bytearray(), True
    while more and len(body) <= limit:
        message = await receive()
        if message["type"] != "http.request":
            raise _Gone
        body += message.get("body", b"")
        more = message.get("more_body", False)
    return bytes(body)
