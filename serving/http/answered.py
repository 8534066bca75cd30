"""What a method of the service returns or raises -> its answer, in our own words where it is refused."""

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
    """The reply, or the refusal as the answer. BentoML would answer what is raised in its words, a 5xx without any."""
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
    return cast(Reply, refused(refusal))  # BentoML passes a Response on as it is


def refused(refusal: Refusal) -> Response:
    """The answer that says so."""
    return Response(refusal.body(), refusal.status, refusal.headers(), media_type=JSON)
