"""The reply or exception of a service method -> the HTTP answer, with our own error body."""

import logging
from collections.abc import Awaitable
from typing import TypeVar, cast

from bentoml.exceptions import ServiceUnavailable
from pydantic import ValidationError
from starlette.responses import Response

from contracts.errors import MAX_MESSAGE, InputError, shorten
from serving.answering.refusal import JSON, Refusal, of_validation
from serving.watching.seen import seen

log = logging.getLogger("leitmotif")
Reply = TypeVar("Reply")


async def answered(work: Awaitable[Reply]) -> Reply:
    """The reply, or the refusal as a response. BentoML's own error responses have other bodies, and no text for 5xx."""
    try:
        return await work
    except ValidationError as error:
        refusal = of_validation(error)
    except Refusal as error:
        refusal = error
    except (InputError, ServiceUnavailable) as error:
        refusal = Refusal(503, shorten(str(error), 3 * MAX_MESSAGE))
    if refusal.status >= 500:
        log.error("%d: %s", refusal.status, refusal.reason)
    seen().cause = refusal.cause
    return cast(Reply, refused(refusal))  # BentoML returns a Response unchanged


def refused(refusal: Refusal) -> Response:
    """The response of a refusal."""
    return Response(refusal.body(), refusal.status, refusal.headers(), media_type=JSON)
