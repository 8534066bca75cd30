"""HTTP -> Predictor -> HTTP: the BentoML service. `bentoml serve serving.service:Leitmotif`, or `make serve`."""

import asyncio
import gc
import logging
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import bentoml
import torch
from bentoml.exceptions import ServiceUnavailable
from pydantic import ValidationError
from starlette.applications import Starlette
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, RedirectResponse
from starlette.routing import Route

from contracts.errors import InputError
from features.deadline import due, left_s
from features.online import StaleStoreError
from serving.gate import Gate
from serving.given import Given, came_at, once_given
from serving.predictor import Predictor, open_here
from serving.remembering import Remembering
from serving.requests import EventsReply, EventsRequest, RankReply, RankRequest, max_body_bytes, max_events_bytes

TIMEOUT_S = 3.0
STORE_S = 1.8
"""How long after a request came it may still begin to wait for the store, which is waited for RedisTail's WAIT_S at
most or until then: what the store refuses is told, and nothing is begun for a caller who has been told of a timeout."""
SHOWN_S = 0.5
"""How long events wait for what was shown before them."""
BODY_TIMEOUT_S = 0.5
MAX_IN_FLIGHT = 16
"""Requests answered at once: one computes, the others wait. So few that the last is in time on a busy machine too."""


log = logging.getLogger("leitmotif")

Request = TypeVar("Request")
Reply = TypeVar("Reply")
MESSAGES = (RankRequest.__name__, EventsRequest.__name__)


def body_limit(path: str) -> int:
    """Bytes of the largest request to a path that the bundle's limits allow."""
    limits = bentoml.get_current_service().predictor.limits
    return max_events_bytes(limits) if path.endswith("/events") else max_body_bytes(limits)


async def info(_: HttpRequest) -> JSONResponse:
    """GET /info: what is being served."""
    return JSONResponse(bentoml.get_current_service().predictor.info())


async def root(_: HttpRequest) -> RedirectResponse:
    """GET /: to /info. BentoML's own page there loads a third party's script."""
    return RedirectResponse("info")


def is_own_failure(record: logging.LogRecord) -> bool:
    """False for a refused request: its answer says why, /metrics counts it, and its traceback shows what was sent."""
    error = record.exc_info[1] if record.exc_info else None
    return not (isinstance(error, ValidationError) and error.title.startswith(MESSAGES))


# measured in STACK.md: access log, tracing and unfrozen garbage collection were the tail
@bentoml.asgi_app(Starlette(routes=[Route("/", root), Route("/info", info)]), path="/")
@bentoml.service(
    workers=1,
    traffic={"timeout": TIMEOUT_S},
    logging={"access": {"enabled": False}},
    tracing={"excluded_urls": ".*"},
    metrics={"enabled": True},
)
class Leitmotif:
    """Ranks a user's candidates by the theme the user is in."""

    @bentoml.on_deployment
    @staticmethod
    def refuse_what_cannot_be_served() -> None:
        """Run once before any worker: a worker that fails would be restarted without end."""
        try:
            open_here()
        except InputError as error:
            print(f"Not serving: {error}", file=sys.stderr)
            sys.exit(error.exit_code)

    def __init__(self) -> None:
        self.predictor = open_here()
        self.remembering = Remembering()
        self.computing = ThreadPoolExecutor(1, "rank", torch.set_num_threads, (self.predictor.limits.num_threads,))
        logging.getLogger("bentoml._internal.server.http_app").addFilter(is_own_failure)

    @bentoml.on_startup
    def freeze(self) -> None:
        """Keep the garbage collector away from what lives as long as the process."""
        gc.collect()
        gc.freeze()

    @bentoml.api
    async def rank(self, request: RankRequest, /) -> RankReply:
        """POST /rank: the candidates in order."""
        reply, shown = await self._in_turn(Predictor.answer, request)
        self.remembering.look(self.predictor, request)
        if shown is not None:
            once_given(lambda: self.remembering.keep(lambda: self.predictor, shown))
        return reply

    @bentoml.api
    async def events(self, request: EventsRequest, /) -> EventsReply:
        """POST /events: taken durably, seen by the next ranking."""
        await self.remembering.settled(SHOWN_S)
        return await self._in_turn(Predictor.append, request)

    def __metrics__(self, text: str) -> str:
        """GET /metrics: BentoML's own, and those of live events."""
        return text + self.remembering.metrics(self.predictor)

    async def _in_turn(self, work: Callable[[Predictor, Request], Reply], request: Request) -> Reply:
        """Compute beside the event loop, which keeps answering probes. A store that does not answer is a 503."""
        at = came_at() + STORE_S
        try:
            return await asyncio.get_running_loop().run_in_executor(self.computing, self._work, work, request, at)
        except InputError as error:
            raise ServiceUnavailable(str(error)) from error

    def _work(self, work: Callable[[Predictor, Request], Reply], request: Request, at: float) -> Reply:
        """With the newest load, where live events have left the tail for it: said before the work keeps anything.

        at: until when the store may be waited for. What had its turn later is not begun.
        """
        with due(at):
            if not left_s(STORE_S):
                raise InputError(f"Its turn did not come within {STORE_S:g} s: nothing was done. Send it again later.")
            try:
                return work(self.predictor, request)
            except StaleStoreError as error:
                log.warning("%s", error)
        predictor = open_here()  # a load is read to its end, whoever waits
        with due(at):
            self.predictor = predictor
            return work(predictor, request)


Leitmotif.add_asgi_middleware(Given)  # pyright: ignore[reportArgumentType]
Leitmotif.add_asgi_middleware(
    Gate,  # pyright: ignore[reportArgumentType]
    max_body_bytes=body_limit,
    body_timeout_s=BODY_TIMEOUT_S,
    max_in_flight=MAX_IN_FLIGHT,
)
