"""A GET's path and query -> a validated message -> the computed answer."""

from collections.abc import Callable
from typing import TypeVar

from bentoml import get_current_service
from pydantic import ValidationError
from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from contracts.errors import shorten
from serving.answering.predictor import Predictor
from serving.answering.refusal import JSON, MAX_NAME, Refusal, of_validation
from serving.answering.requests import Message
from serving.http.answered import answered, refused

Asked = TypeVar("Asked", bound=Message)


async def computed(http: HttpRequest, message: type[Asked], work: Callable[[Predictor, Asked], Message]) -> Response:
    """The answer to a GET, computed in the worker's one computing thread."""
    service = get_current_service()
    try:
        asked = read_query(http, message)
        with service.admission.admitted(asked):
            reply = await answered(service.in_turn(work, asked))
    except Refusal as refusal:
        return refused(refusal)
    return reply if isinstance(reply, Response) else Response(reply.model_dump_json(), media_type=JSON)


def read_query(http: HttpRequest, message: type[Asked]) -> Asked:
    """A message from path and query, each field at most once. Raises Refusal."""
    given = dict(http.path_params)
    for name, value in http.query_params.multi_items():
        if name in given:
            raise Refusal(
                400, f"{shorten(name, MAX_NAME)} is given twice in the request. Send it once.", shorten(name, MAX_NAME)
            )
        given[name] = value
    try:
        return message.model_validate(given)
    except ValidationError as error:
        raise of_validation(error) from None
