"""GET /metrics: the metrics of all workers, after updating this worker's gauges."""

import os

import anyio.to_thread
from bentoml import get_current_service
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from serving.watching import metrics

PAGE = os.sysconf("SC_PAGE_SIZE")


async def get_metrics(_: Request) -> Response:
    """The metrics in Prometheus' text format."""
    service = get_current_service()

    def updated() -> bytes:
        service.remembering.show(service.predictor)
        service.succession.show()
        with open("/proc/self/statm", encoding="ascii") as memory:
            metrics.LATEST["worker_resident_bytes"].set(int(memory.read().split()[1]) * PAGE)
        return metrics.exposition()

    return Response(await anyio.to_thread.run_sync(updated), media_type=metrics.CONTENT_TYPE)


ROUTES = [Route("/metrics", get_metrics)]
