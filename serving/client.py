"""A typed HTTP client of the service. Every failure is a ServiceError.

    with Client("http://127.0.0.1:3000", token="...") as client:
        ranking = client.rank("u00042", ["i00001", "i00345"], k=2)
        client.events([EventIn(user_id="u00042", item_id="i00345", impression_id=ranking.impression_id)])

It uses httpx, which reuses connections and distinguishes connection failures from answers; the service's tests use it.
"""

import math
import threading
import time
import uuid
from collections.abc import Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any, TypeVar
from urllib.parse import quote

import httpcore
import httpx
from pydantic import BaseModel, TypeAdapter, ValidationError

from contracts.errors import shorten
from features.live.exposure import is_exposure
from serving.answering.refusal import CODES, RETRY_AFTER_S, read_refusal
from serving.answering.replies import (
    CatalogueItem,
    ItemsReply,
    RecommendReply,
    SimilarReply,
    ThemesReply,
    UsersReply,
)
from serving.answering.requests import Beside, EventIn, EventsReply, RankReply, RequestContext

UNREACHABLE = "unreachable"
"""The code if nothing answered. Status 0."""
NOT_THE_SERVICE = "not_the_service"
"""The code if the answer is not from this service."""
MIN_WAIT_S = 0.05
"""Minimum wait between two attempts."""
MIN_LEFT_S = 0.001
MAX_SAID = 1000
"""Most characters of a foreign answer in an error."""
OBJECT = TypeAdapter(dict[str, Any])

Reply = TypeVar("Reply", bound=BaseModel)


class ServiceError(Exception):
    """The service's refusal (serving/answering/refusal.py), or a failure of the connection.

    status: HTTP status; 0 if nothing answered or the request could not be sent.
    """

    def __init__(self, status: int, code: str, message: str, field: str | None = None) -> None:
        super().__init__(f"{status} {code}: {message}" if status else message)
        self.status = status
        self.code = code
        self.message = message
        self.field = field


class Client:
    """A client of one service. Threads may share it. deadline_s: of one call, with all its attempts.

    If the service is too busy (429, 503), the request is sent again after Retry-After while the deadline allows. Other
    requests are sent once.
    """

    def __init__(self, url: str, token: str | None = None, deadline_s: float = 10.0) -> None:
        self._deadline_s = deadline_s
        if not all("!" <= each <= "~" for each in token or ""):
            raise _unsendable("the token has characters that a header cannot carry")
        try:
            self._http = httpx.Client(base_url=url, headers={"authorization": f"Bearer {token}"} if token else None)
            self._ends = _bound(self._http)
        except httpx.InvalidURL as error:
            raise ServiceError(0, NOT_THE_SERVICE, f"{url!r} is not an address of a service: {error}.") from error

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def rank(
        self,
        user_id: str,
        candidates: Sequence[str],
        *,
        k: int | None = None,
        at: str | None = None,
        context: RequestContext | Mapping[str, Any] | None = None,
        preview: bool = False,
        explain: bool = False,
        suppose: Sequence[str] = (),
        model: Beside | None = None,
    ) -> RankReply:
        """Rank candidates. at: ISO time; None: now. suppose: items that are treated as just clicked. model: one that is
        loaded beside the served one; None: the served one."""
        given = context.model_dump() if isinstance(context, RequestContext) else context
        asked = {"user_id": user_id, "candidates": list(candidates), "k": k, "at": at, "context": given}
        asked |= {} if model is None else {"model": model}
        return self._message(
            "POST", "/rank", RankReply, asked | {"preview": preview, "explain": explain, "suppose": list(suppose)}
        )

    def recommend(
        self,
        user_id: str,
        *,
        k: int = 20,
        at: str | None = None,
        context: RequestContext | Mapping[str, Any] | None = None,
        diversity: float | None = None,
        exclude_seen: bool = True,
        preview: bool = False,
        suppose: Sequence[str] = (),
        model: Beside | None = None,
    ) -> RecommendReply:
        """Recommend items to a user. diversity: None: the bundle's default. model: as for rank."""
        given = context.model_dump() if isinstance(context, RequestContext) else context
        asked = {"user_id": user_id, "k": k, "at": at, "context": given, "diversity": diversity}
        asked |= {"exclude_seen": exclude_seen, "preview": preview, "suppose": list(suppose)}
        asked |= {} if model is None else {"model": model}
        return self._message("POST", "/recommend", RecommendReply, asked)

    def events(self, events: Iterable[EventIn]) -> EventsReply:
        """Report events; they are durable when this returns.

        An event without event_id, time and impression_id of the service gets an event_id here, so that it is stored
        once even if it is sent several times.
        """
        sent = [event.model_dump(exclude_none=True) for event in events]
        for event in sent:
            if not event.keys() & {"event_id", "occurred_at"} and not is_exposure(event.get("impression_id")):
                event["event_id"] = uuid.uuid4().hex
        return self._message("POST", "/events", EventsReply, {"events": sent})

    def themes(self, user_id: str, at: str | None = None) -> ThemesReply:
        """A user's sessions with their themes, and the active theme."""
        return self._message("GET", f"/users/{_segment(user_id)}/themes", ThemesReply, at=at)

    def users(self, prefix: str = "", limit: int = 20) -> list[str]:
        """Users whose id starts with the prefix."""
        return self._message("GET", "/users", UsersReply, prefix=prefix, limit=limit).users

    def similar(self, item_id: str, k: int = 20) -> SimilarReply:
        """The nearest items on offer."""
        return self._message("GET", f"/items/{_segment(item_id)}/similar", SimilarReply, k=k)

    def items(self, item_ids: Sequence[str]) -> list[CatalogueItem]:
        """Titles, categories and themes of items. Ids with a comma cannot be requested."""
        return self._message("GET", "/items", ItemsReply, ids=",".join(item_ids)).items

    def info(self) -> dict[str, Any]:
        """The served model and snapshot, and the limits."""
        return self._object("GET", "/info")

    def ready(self) -> bool:
        """Whether the service can answer now, by one attempt."""
        try:
            self._ask("GET", "/readyz", None, {}, once=True)
        except ServiceError:
            return False
        return True

    def _message(self, method: str, path: str, kind: type[Reply], body: Any = None, **query: Any) -> Reply:
        answer = self._ask(method, path, body, query)
        try:
            return kind.model_validate_json(answer.content, extra="ignore")  # a newer service may have more fields
        except ValidationError as error:
            raise self._stranger(answer, "its answer is not a reply of the service") from error

    def _object(self, method: str, path: str, body: Any = None, **query: Any) -> dict[str, Any]:
        answer = self._ask(method, path, body, query)
        try:
            return OBJECT.validate_json(answer.content)
        except ValidationError as error:
            raise self._stranger(answer, "its answer is not a reply of the service") from error

    def _ask(self, method: str, path: str, body: Any, query: Mapping[str, Any], once: bool = False) -> httpx.Response:
        ends = time.monotonic() + self._deadline_s
        fields = {name: value for name, value in query.items() if value is not None}
        refusal: ServiceError | None = None
        while True:
            try:
                answer = self._send(method, path, body, fields, ends)
            except ServiceError as error:
                raise refusal or error from error
            if answer.is_success:
                return answer
            wait_s, refusal = _wait_s(answer), self._refusal(answer)
            if once or answer.status_code not in RETRY_AFTER_S or time.monotonic() + wait_s >= ends:
                raise refusal
            time.sleep(wait_s)

    def _send(self, method: str, path: str, body: Any, query: Mapping[str, Any], ends: float) -> httpx.Response:
        timeout_s = max(ends - time.monotonic(), MIN_LEFT_S)
        try:
            self._ends.at = ends
            return self._http.request(method, path, json=body, params=query, timeout=timeout_s)
        except (httpx.ConnectError, httpx.TimeoutException) as error:
            said = f"No service answers at {self._http.base_url} within {timeout_s:.3g} s ({_of(error)})."
            raise ServiceError(0, UNREACHABLE, said) from error
        except (httpx.HTTPError, httpx.InvalidURL) as error:  # not a URL, or not HTTP
            said = f"{self._http.base_url} is not the ranking service ({_of(error)})."
            raise ServiceError(0, NOT_THE_SERVICE, said) from error
        except (TypeError, ValueError) as error:  # not JSON: NaN, a lone surrogate, an object
            raise _unsendable(_of(error)) from error

    def _refusal(self, answer: httpx.Response) -> ServiceError:
        refusal = read_refusal(answer.content)
        return ServiceError(answer.status_code, *refusal) if refusal else self._stranger(answer, _text(answer))

    def _stranger(self, answer: httpx.Response, why: str) -> ServiceError:
        said = f"{self._http.base_url} is not the ranking service: {why}."
        return ServiceError(answer.status_code, NOT_THE_SERVICE, said)


class _Ends(threading.local):
    """The deadline of this thread's call (time.monotonic())."""

    at = math.inf

    def left_s(self, timeout_s: float | None) -> float:
        """The timeout of one wait. httpx would give each wait the whole time, so a slow answer could go on for ever."""
        return max(MIN_LEFT_S, min(timeout_s or math.inf, self.at - time.monotonic()))


class _Stream(httpcore.NetworkStream):
    """A connection whose waits end at the call's deadline."""

    def __init__(self, inner: httpcore.NetworkStream, ends: _Ends) -> None:
        self._inner, self._ends = inner, ends

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._inner.read(max_bytes, self._ends.left_s(timeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._inner.write(buffer, self._ends.left_s(timeout))

    def close(self) -> None:
        self._inner.close()

    def start_tls(self, *args: Any, **kwargs: Any) -> httpcore.NetworkStream:
        return _Stream(self._inner.start_tls(*args, **kwargs), self._ends)

    def get_extra_info(self, info: str) -> Any:
        return self._inner.get_extra_info(info)


class _Backend(httpcore.SyncBackend):
    """Opens such connections."""

    def __init__(self, ends: _Ends) -> None:
        self._ends = ends

    def connect_tcp(self, *args: Any, **kwargs: Any) -> httpcore.NetworkStream:
        return _Stream(super().connect_tcp(*args, **kwargs), self._ends)


def _bound(client: httpx.Client) -> _Ends:
    """Replace the network backend of all transports, those for proxies too, since httpx has no setting for it."""
    ends = _Ends()
    for transport in (client._transport, *client._mounts.values()):
        if isinstance(transport, httpx.HTTPTransport):
            transport._pool._network_backend = _Backend(ends)
    return ends


def _wait_s(answer: httpx.Response) -> float:
    header = answer.headers.get("retry-after", "")
    known = header.isascii() and header.isdigit()
    return max(float(header[:9]) if known else float(RETRY_AFTER_S.get(answer.status_code, 1)), MIN_WAIT_S)


def _segment(name: str) -> str:
    """An id as a path segment. Dots are escaped in ids of dots only, which would mean a parent folder."""
    try:
        return quote(name, safe="") if name.strip(".") else name.replace(".", "%2E")
    except UnicodeEncodeError as error:
        raise _unsendable(_of(error)) from error


def _unsendable(why: str) -> ServiceError:
    return ServiceError(0, CODES[400], f"The request was not sent, because it is invalid: {why}.")


def _of(error: Exception) -> str:
    return shorten(" ".join(f"{type(error).__name__}: {error}".split()), MAX_SAID)


def _text(answer: httpx.Response) -> str:
    return f"it answered {answer.status_code}, {shorten(' '.join(answer.text.split()), MAX_SAID)!r}"
