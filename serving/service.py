"""HTTP -> Predictor -> HTTP: the BentoML service. `bentoml serve serving.service:Leitmotif`, or `make serve`."""

import asyncio
import gc
import logging
import os
import sys
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import Any, TypeVar

import bentoml
import torch
from bentoml import get_current_service  # bentoml looks it up anew at each access, which takes 50 us
from bentoml.exceptions import ServiceUnavailable
from pydantic import BaseModel
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse
from starlette.routing import Route

from contracts.errors import InputError
from contracts.parent import end_with_parent
from features.live.deadline import due, left_s
from features.online.store import StaleStoreError
from serving.answering.away import Away
from serving.answering.beside import open_served
from serving.answering.observed import expect, line_of, observe_events, observe_ranking
from serving.answering.predictor import Answer, Predictor
from serving.answering.recommend import RecommendReply, RecommendRequest, recommend
from serving.answering.remembering import Remembering
from serving.answering.requests import EventsReply, EventsRequest, Message, RankReply, RankRequest
from serving.answering.succession import Succession
from serving.http import figures, items, page, users
from serving.http.admission import Admission
from serving.http.answered import answered
from serving.http.crowd import Crowd
from serving.http.form import InTime
from serving.http.gate import READ, Door, Gate
from serving.http.given import Given, came_at, once_given
from serving.http.hosts import allowed_hosts
from serving.http.listening import listening_host
from serving.http.openapi import Bounds, document
from serving.http.rate import Rate, user_events
from serving.http.readiness import Readiness
from serving.http.tokens import Tokens, refuse_to_listen
from serving.http.watched import Watched
from serving.locations import importable, where_commands_run
from serving.packing.image import serving_image, variables
from serving.packing.model import bundle_model
from serving.packing.settings import Deployment
from serving.params import ServeParams
from serving.watching import logs, metrics
from serving.watching.request_log import RequestLog
from serving.watching.seen import seen
from serving.watching.stages import Spent, recording
from serving.watching.traces import Traces

LOOPBACK = "127.0.0.1"
"""The default address; BENTOML_HOST, `bentoml serve --host` and `make serve HOST=` override it."""
TIMEOUT_S = 3.0
STORE_S = 1.8
"""How long after its arrival a request may wait for the store, by at most RedisTail's WAIT_S at a time. It is less than
TIMEOUT_S, so that callers get the store's error, and no work starts for a caller who already got a timeout."""
SHOWN_S = 0.5
"""How long events wait for earlier rankings to be stored as shown."""
BODY_TIMEOUT_S = 0.5
API_VERSION = "1"
DEPLOYED = Deployment.read()
MAX_IN_FLIGHT = DEPLOYED.in_flight
"""Requests in progress at once: one computes, the others wait."""
ADMITTED_S = 1.0
"""A request is admitted if it and those before it should be done within this time, which is less than STORE_S."""


log = logging.getLogger("leitmotif")

Request = TypeVar("Request", bound=Message)
Shown = TypeVar("Shown", bound=RankRequest | RecommendRequest)
Reply = TypeVar("Reply")
Work = Callable[[Predictor, Request], Reply]


def of_gate(message: type[BaseModel]) -> type[bentoml.IODescriptor]:
    """BentoML's input type of a method: the message that the gate has validated."""

    async def from_http_request(cls: type, request: HttpRequest, serde: object) -> BaseModel:
        return request.scope[READ]

    members = {"__module__": __name__, "__root_input__": True, "from_http_request": classmethod(from_http_request)}
    return type(message.__name__, (bentoml.IODescriptor, message), members)


def limits() -> ServeParams:
    """The limits of the served bundle."""
    return get_current_service().predictor.limits


def door() -> Door:
    """The checks that a request must pass."""
    service = get_current_service()
    return Door(
        service.predictor.limits, service.hosts, service.tokens, service.rate, service.guesses, service.admission
    )


async def info(_: HttpRequest) -> JSONResponse:
    """GET /info: the served model and snapshot, and the limits."""
    return JSONResponse(get_current_service().predictor.info())


async def docs(_: HttpRequest) -> JSONResponse:
    """GET /docs.json: the API as OpenAPI."""
    of = limits()
    beside = tuple(get_current_service().predictor.beside)
    bounds = Bounds(of.max_candidates, of.max_events, of.max_id_length, of.retrieval.num_candidates, beside)
    return JSONResponse(document(API_VERSION, bounds, bool(door().tokens.known)))


ROUTES = [*page.ROUTES, Route("/info", info), Route("/docs.json", docs), *users.ROUTES, *items.ROUTES, *figures.ROUTES]


# access log, tracing and unfrozen garbage collection are off or frozen: measured, they caused the slowest answers
@bentoml.asgi_app(Starlette(routes=ROUTES), path="/")
@bentoml.service(
    image=serving_image(),
    envs=variables(DEPLOYED.torch),  # pyright: ignore[reportArgumentType]
    workers=DEPLOYED.workers,
    resources=DEPLOYED.resources(),  # pyright: ignore[reportArgumentType]
    traffic={"timeout": TIMEOUT_S + 1, "concurrency": MAX_IN_FLIGHT},  # InTime answers earlier, in our form of error
    logging={"access": {"enabled": False}},
    tracing={"excluded_urls": ".*"},
    metrics={
        "enabled": False
    },  # GET /metrics is ours: BentoML's has a label for each path, and paths contain ids of users
    http={"host": LOOPBACK},  # pyright: ignore[reportArgumentType]  # a text, as in the configuration
)
class Leitmotif:
    """Ranks items for a user by the theme the user is in."""

    bundle = bundle_model()  # used in a Bento; open_served finds it

    @bentoml.on_deployment
    @staticmethod
    def refuse_what_cannot_be_served() -> None:
        """Check everything once before any worker starts, since a failing worker would be restarted for ever."""
        try:
            DEPLOYED.check()
            logs.chosen()
            Traces.read()
            RequestLog.read(None)
            refuse_to_listen(listening_host(), Tokens.read())
            Rate.read()
            user_events()
            with importable():
                open_served()
        except InputError as error:
            print(f"Not serving: {error}{where_commands_run()}", file=sys.stderr)
            sys.exit(error.exit_code)

    @bentoml.on_deployment
    @staticmethod
    def restart_workers_that_die() -> None:
        """In an image BentoML 1.4.39 would restart none, since one might fail for ever; a start is checked above."""
        os.environ.pop("BENTOML_CONTAINERIZED", None)

    def __init__(self) -> None:
        self.succession = Succession()
        self.predictor = open_served()
        self.remembering, self.away = Remembering(), Away()
        self.computing = ThreadPoolExecutor(1, "rank", torch.set_num_threads, (self.predictor.limits.num_threads,))
        self.hosts = allowed_hosts(self.predictor.limits)
        self.tokens, self.rate, self.guesses = Tokens.read(), Rate.read(), Rate.of_guesses()
        self.quota = user_events()
        self.admission = Admission(MAX_IN_FLIGHT, ADMITTED_S, self.predictor.limits.retrieval.num_candidates)
        self.readiness = Readiness()
        self.traces = Traces.read()
        self.request_log = RequestLog.read(bentoml.server_context.worker_index or 0)

    @bentoml.on_startup
    def freeze(self) -> None:
        """Start a worker: exclude long-lived objects from garbage collection, and end with the parent process."""
        end_with_parent()
        logs.start()
        metrics.start()
        expect(self.predictor.bundle.golden)
        gc.collect()
        gc.freeze()
        self.succession.watch(lambda: self.predictor, self.take)

    @bentoml.on_shutdown
    def close(self) -> None:
        """Follow no other bundle; write out pending spans and lines of the request log."""
        self.succession.end()
        for each in (self.traces, self.request_log):
            if each is not None:
                each.close()

    def take(self, predictor: Predictor) -> None:
        """Use another bundle from the next request on."""
        self.hosts = allowed_hosts(predictor.limits)
        self.admission.num_recommended = predictor.limits.retrieval.num_candidates
        expect(predictor.bundle.golden)
        self.predictor = predictor

    async def __is_ready__(self) -> bool:
        """GET /readyz: 200 if the online store answers, else 503 with the reason."""
        if reason := await self.readiness.reason_against(self.predictor.store):
            raise HTTPException(503, reason)
        return True

    # the gate calls `answer` itself: BentoML's way to these three, by which it describes them, inspects signatures and
    # makes tasks for each request, which took a tenth of the CPU time of a ranking
    @bentoml.api(input_spec=of_gate(RankRequest))
    async def rank(self, request: RankRequest, /) -> RankReply:
        """POST /rank: rank candidates."""
        return await self.answer(request)

    @bentoml.api(input_spec=of_gate(RecommendRequest))
    async def recommend(self, request: RecommendRequest, /) -> RecommendReply:
        """POST /recommend: recommend items."""
        return await self.answer(request)

    @bentoml.api(input_spec=of_gate(EventsRequest))
    async def events(self, request: EventsRequest, /) -> EventsReply:
        """POST /events: store events durably; the next ranking includes them."""
        return await self.answer(request)

    async def answer(self, message: Message) -> Any:
        """The reply to what the gate has validated, or its refusal as a response."""
        if isinstance(message, RankRequest):
            return await answered(self._rank(self.away.answer, message, self.away.answer_without))
        if isinstance(message, RecommendRequest):
            return await answered(self._rank(recommend, message))
        assert isinstance(message, EventsRequest)
        await self.remembering.settled(SHOWN_S)
        return await answered(self._append(message))

    async def _append(self, request: EventsRequest) -> EventsReply:
        self.quota.take_each(Counter(event.user_id for event in request.events))
        reply = await self.in_turn(Predictor.append, request)
        observe_events(reply)
        return reply

    async def _rank(self, work: Work[Shown, Answer], request: Shown, without: Work[Shown, Answer] | None = None) -> Any:
        reply, shown = await self.in_turn(work, request, without)
        if request.model is not None:  # figures and logs are of the served one
            return reply
        observe_ranking(seen().route, reply, seen().spent)
        self.remembering.look(self.predictor, request)
        if shown is not None and not self.remembering.takes():
            reply, shown = reply.model_copy(update={"impression_id": None}), None
        if shown is not None:
            once_given(lambda: self.remembering.keep(lambda: self.predictor, shown))
        if (kept := self.request_log) is not None:
            request_at_hand = seen()
            once_given(lambda: kept.keep(line_of(request, reply, request_at_hand)))
        return reply

    async def in_turn(
        self, work: Work[Request, Reply], request: Request, without: Work[Request, Reply] | None = None
    ) -> Reply:
        """Compute in the worker's one computing thread, so that the event loop still answers probes.

        Raises ServiceUnavailable (503) if the store does not answer. without: used if the store cannot be reopened.
        """
        at, spent = came_at() + STORE_S, Spent()
        seen().spent = spent

        def turn() -> Reply:
            with recording(spent):
                return self._work(work, request, at, without)

        within = copy_context()  # so that log lines of the other thread have the request's id
        try:
            return await asyncio.get_running_loop().run_in_executor(self.computing, within.run, turn)
        except InputError as error:
            raise ServiceUnavailable(str(error)) from error

    def _work(
        self, work: Work[Request, Reply], request: Request, at: float, without: Work[Request, Reply] | None
    ) -> Reply:
        """Do the work; if a newer load is needed (StaleStoreError, before anything is stored), open it and retry.

        at: time until which the store may be waited for; work whose turn comes later is refused.
        """
        with due(at):
            if not left_s(STORE_S):
                raise InputError(
                    f"The request's turn did not come within {STORE_S:g} s: nothing was done. Send it again later."
                )
            began, computed, predictor = time.monotonic(), time.thread_time(), self.predictor
            try:
                return work(predictor, request)
            except StaleStoreError as error:
                why = str(error)
            finally:
                self.admission.learn(request, time.monotonic() - began, time.thread_time() - computed)
        try:
            # without a deadline, so that opening the load completes
            predictor = self.succession.reopen(predictor, why, lambda: self.predictor, self.take)
        except InputError:
            if without is None:
                raise
            return without(predictor, request)
        with due(at):
            return work(predictor, request)


async def answer(message: Message) -> Any:
    """The worker's answer to a message."""
    return await get_current_service().answer(message)


def admission() -> Admission:
    """What this worker has in progress."""
    return get_current_service().admission


def traces() -> Traces | None:
    """The traces of this worker."""
    return get_current_service().traces


Leitmotif.add_asgi_middleware(Watched, traces=traces)  # pyright: ignore[reportArgumentType]
Leitmotif.add_asgi_middleware(Crowd, admission=admission)  # pyright: ignore[reportArgumentType]
Leitmotif.add_asgi_middleware(InTime, limit_s=TIMEOUT_S)  # pyright: ignore[reportArgumentType]
Leitmotif.add_asgi_middleware(Given)  # pyright: ignore[reportArgumentType]
Leitmotif.add_asgi_middleware(
    Gate,  # pyright: ignore[reportArgumentType]
    door=door,
    body_timeout_s=BODY_TIMEOUT_S,
    answer=answer,
)
