"""An answered request -> an OpenTelemetry span with a child span for each stage.

Settings are OpenTelemetry's variables: OTEL_TRACES_EXPORTER (console, otlp_proto_http, ...; unset or `none`: no
traces), OTEL_TRACES_SAMPLER, OTEL_SERVICE_NAME, OTEL_EXPORTER_OTLP_ENDPOINT. The caller's `traceparent` is continued.
Spans are created after the answer, so that tracing does not slow down the computation.
"""

import importlib.metadata
import os
from collections.abc import MutableMapping
from typing import Any

from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import SpanKind, Status, StatusCode, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from contracts.errors import InputError
from serving.watching.logs import wall_clock
from serving.watching.seen import Seen

VARIABLE = "OTEL_TRACES_EXPORTER"
GROUP = "opentelemetry_traces_exporter"
"""The entry point group in which packages of OpenTelemetry name their exporters."""
NAME = "leitmotif"


class Traces:
    """One per worker. processor: receives the spans."""

    def __init__(self, processor: SpanProcessor) -> None:
        name = {} if "OTEL_SERVICE_NAME" in os.environ else {SERVICE_NAME: NAME}
        provider = TracerProvider(resource=Resource.create(name))
        provider.add_span_processor(processor)
        self.close = provider.shutdown
        self._tracer = provider.get_tracer(NAME)
        self._propagator = TraceContextTextMapPropagator()

    @classmethod
    def read(cls) -> "Traces | None":
        """The traces; None if no exporter is set. Raises InputError if the exporter is not installed."""
        name = os.environ.get(VARIABLE, "").strip() or "none"
        if name == "none":
            return None
        found = importlib.metadata.entry_points(group=GROUP, name=name)
        if not found:
            there = ", ".join(sorted({each.name for each in importlib.metadata.entry_points(group=GROUP)}))
            raise InputError(
                f"{VARIABLE} is {name!r}, but no installed package has that exporter; there is {there}. For OTLP "
                "install opentelemetry-exporter-otlp-proto-http in the version of opentelemetry-sdk, and set "
                "otlp_proto_http."
            )
        return cls(BatchSpanProcessor(next(iter(found)).load()()))

    def tell(self, scope: MutableMapping[str, Any], request: Seen, status: int, took_s: float) -> None:
        """Create the spans of an answered request."""
        carried = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        offset = wall_clock()
        span = self._tracer.start_span(
            f"{scope['method']} {request.route}",
            self._propagator.extract(carried),
            SpanKind.SERVER,
            {
                "http.request.method": scope["method"],
                "http.route": request.route,
                "http.response.status_code": status,
                "leitmotif.request_id": request.request_id,
            },
            start_time=_ns(request.began + offset),
        )
        inside = set_span_in_context(span)
        for name, began, lasted_s in request.spent.parts if request.spent is not None else ():
            part = self._tracer.start_span(name, inside, start_time=_ns(began + offset))
            part.end(_ns(began + lasted_s + offset))
        if status >= 500:
            span.set_status(Status(StatusCode.ERROR))
        span.end(_ns(request.began + took_s + offset))


def _ns(seconds: float) -> int:
    return int(seconds * 1e9)
