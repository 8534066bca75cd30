"""A running service over HTTP -> its messages, typed; whatever goes wrong is one ServiceError.

    with Client("http://127.0.0.1:3000", token="...") as client:
        ranking = client.rank("u00042", ["i00001", "i00345"], k=2)
        client.events([EventIn(user_id="u00042", item_id="i00345", impression_id=ranking.impression_id)])

httpx, because it keeps its connections and tells a refusal from a failure; the service's own tests speak through it.
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
from serving.answering.catalogue import CatalogueItem, ItemsReply, SimilarReply
from serving.answering.recommend import RecommendReply
from serving.answering.refusal import CODES, RETRY_AFTER_S, read_refusal
from serving.answering.requests import Beside, EventIn, EventsReply, RankReply, RequestContext
from serving.answering.users import ThemesReply, UsersReply

UNREACHABLE = "unreachable"
"""The code where nobody answered. Status 0."""
NOT_THE_SERVICE = "not_the_service"
"""The code where the answer is none of this service's."""
MIN_WAIT_S = 0.05
"""Between two tries, however impatient the service."""
MIN_LEFT_S = 0.001
MAX_SAID = 1000
"""Characters of an answer of others that are repeated."""
OBJECT = TypeAdapter(dict[str, Any])

Reply = TypeVar("Reply", bound=BaseModel)


class ServiceError(Exception):
    """Why there is no answer: what the service says in the one form (serving/answering/refusal.py), or what happened.

    status: of HTTP; 0 where nothing answered, or nothing could be asked.
    """

    def __init__(self, status: int, code: str, message: str, field: str | None = None) -> None:
        super().__init__(f"{status} {code}: {message}" if status else message)
        self.status = status
        self.code = code
        self.message = message
        self.field = field


class Client:
    """One service. Threads may share it. deadline_s: of one call, with all its tries.

    What the service is too busy for (429, 503) is asked again when it says so (Retry-After), as long as the deadline
    allows. Nothing else is asked twice.
    """

    def __init__(self, url: str, token: str | None = None, deadline_s: float = 10.0) -> None:
        self._deadline_s = deadline_s
        if not all("!" <= each <= "~" for each in token or ""):
            raise _unsendable("the token has characters that no header carries")
        try:
            self._http = httpx.Client(base_url=url, headers={"authorization": f"Bearer {token}"} if token else None)
            self._ends = _bound(self._http)
        except httpx.InvalidURL as error:
            raise ServiceError(0, NOT_THE_SERVICE, f"{url!r} is no address of a service: {error}.") from error

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the connections."""
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
        """The candidates in order. at: ISO time; None: now. suppose: items as if just clicked. model: None: the served
        one; else one that is loaded beside it."""
        told = context.model_dump() if isinstance(context, RequestContext) else context
        asked = {"user_id": user_id, "candidates": list(candidates), "k": k, "at": at, "context": told}
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
        """Items found for a user, ranked and mixed. diversity: None: the bundle's own. model: as of rank."""
        told = context.model_dump() if isinstance(context, RequestContext) else context
        asked = {"user_id": user_id, "k": k, "at": at, "context": told, "diversity": diversity}
        asked |= {"exclude_seen": exclude_seen, "preview": preview, "suppose": list(suppose)}
        asked |= {} if model is None else {"model": model}
        return self._message("POST", "/recommend", RecommendReply, asked)

    def events(self, events: Iterable[EventIn]) -> EventsReply:
        """Tell what happened; durable when this returns.

        An event that names neither itself, nor its time, nor a ranking of the service gets a name here, so that it is
        kept once however often it has to be sent.
        """
        told = [event.model_dump(exclude_none=True) for event in events]
        for event in told:
            if not event.keys() & {"event_id", "occurred_at"} and not is_exposure(event.get("impression_id")):
                event["event_id"] = uuid.uuid4().hex
        return self._message("POST", "/events", EventsReply, {"events": told})

    def themes(self, user_id: str, at: str | None = None) -> ThemesReply:
        """The sessions of a user with their themes, and the active one."""
        return self._message("GET", f"/users/{_segment(user_id)}/themes", ThemesReply, at=at)

    def users(self, prefix: str = "", limit: int = 20) -> list[str]:
        """Users whose id begins so."""
        return self._message("GET", "/users", UsersReply, prefix=prefix, limit=limit).users

    def similar(self, item_id: str, k: int = 20) -> SimilarReply:
        """The items nearest to one, among those on offer."""
        return self._message("GET", f"/items/{_segment(item_id)}/similar", SimilarReply, k=k)

    def items(self, item_ids: Sequence[str]) -> list[CatalogueItem]:
        """What the bundle knows of items. Ids with a comma cannot be asked for."""
        return self._message("GET", "/items", ItemsReply, ids=",".join(item_ids)).items

    def info(self) -> dict[str, Any]:
        """What is being served, and its limits."""
        return self._object("GET", "/info")

    def ready(self) -> bool:
        """Whether the service can answer now. Asked once."""
        try:
            self._ask("GET", "/readyz", None, {}, once=True)
        except ServiceError:
            return False
        return True

    def _message(self, method: str, path: str, kind: type[Reply], body: Any = None, **query: Any) -> Reply:
        answer = self._ask(method, path, body, query)
        try:
            return kind.model_validate_json(answer.content, extra="ignore")  # a newer service may say more
        except ValidationError as error:
            raise self._stranger(answer, "its answer is none of ours") from error

    def _object(self, method: str, path: str, body: Any = None, **query: Any) -> dict[str, Any]:
        answer = self._ask(method, path, body, query)
        try:
            return OBJECT.validate_json(answer.content)
        except ValidationError as error:
            raise self._stranger(answer, "its answer is none of ours") from error

    def _ask(self, method: str, path: str, body: Any, query: Mapping[str, Any], once: bool = False) -> httpx.Response:
        ends = time.monotonic() + self._deadline_s
        told = {name: value for name, value in query.items() if value is not None}
        refusal: ServiceError | None = None
        while True:
            try:
                answer = self._send(method, path, body, told, ends)
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
        except (httpx.HTTPError, httpx.InvalidURL) as error:  # no URL, or no HTTP
            said = f"{self._http.base_url} is not the ranking service ({_of(error)})."
            raise ServiceError(0, NOT_THE_SERVICE, said) from error
        except (TypeError, ValueError) as error:  # no JSON: NaN, a lone surrogate, an object
            raise _unsendable(_of(error)) from error

    def _refusal(self, answer: httpx.Response) -> ServiceError:
        told = read_refusal(answer.content)
        return ServiceError(answer.status_code, *told) if told else self._stranger(answer, _text(answer))

    def _stranger(self, answer: httpx.Response, why: str) -> ServiceError:
        said = f"{self._http.base_url} is not the ranking service: {why}."
        return ServiceError(answer.status_code, NOT_THE_SERVICE, said)


class _Ends(threading.local):
    """Of the call that this thread makes: when it must be over, of time.monotonic()."""

    at = math.inf

    def left_s(self, timeout_s: float | None) -> float:
        """httpx gives the whole of a call to each of its waits: an answer that comes in drops would never end."""
        return max(MIN_LEFT_S, min(timeout_s or math.inf, self.at - time.monotonic()))


class _Stream(httpcore.NetworkStream):
    """A connection whose every wait ends with the call."""

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
    """Makes such connections."""

    def __init__(self, ends: _Ends) -> None:
        self._ends = ends

    def connect_tcp(self, *args: Any, **kwargs: Any) -> httpcore.NetworkStream:
        return _Stream(super().connect_tcp(*args, **kwargs), self._ends)


def _bound(client: httpx.Client) -> _Ends:
    """httpx has no setting for it: its transports, those for proxies too, get another maker of connections."""
    ends = _Ends()
    for transport in (client._transport, *client._mounts.values()):
        if isinstance(transport, httpx.HTTPTransport):
            transport._pool._network_backend = _Backend(ends)
    return ends


def _wait_s(answer: httpx.Response) -> float:
    told = answer.headers.get("retry-after", "")
    known = told.isascii() and told.isdigit()
    return max(float(told[:9]) if known else float(RETRY_AFTER_S.get(answer.status_code, 1)), MIN_WAIT_S)


def _segment(name: str) -> str:
    """An id as a part of a path: one that is only dots would be taken for a way up."""
    try:
        return quote(name, safe="") if name.strip(".") else name.replace(".", "%2E")
    except UnicodeEncodeError as error:
        raise _unsendable(_of(error)) from error


def _unsendable(why: str) -> ServiceError:
    return ServiceError(0, CODES[400], f"Nothing was asked, for it cannot be sent: {why}.")


def _of(error: Exception) -> str:
    return shorten(" ".join(f"{type(error).__name__}: {error}".split()), MAX_SAID)


def _text(answer: httpx.Response) -> str:
    return f"it answered {answer.status_code}, {shorten(' '.join(answer.text.split()), MAX_SAID)!r}"
