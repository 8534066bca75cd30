"""GET /items?ids=a,b and GET /items/{id}/similar?k=20 -> JSON, or a refusal that says why."""

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import bentoml
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from serving.answering.catalogue import ItemsRequest, SimilarRequest, find_similar, look_up
from serving.answering.predictor import Predictor
from serving.answering.requests import Message
from serving.http.answered import answered

Asked = TypeVar("Asked", bound=Message)


async def items(request: Request) -> Response:
    """GET /items: titles, categories and themes."""
    told = dict(request.query_params)
    ids = [each for each in told.pop("ids", "").split(",") if each]
    return await _answer(look_up, ItemsRequest, {"ids": ids, **told})


async def similar(request: Request) -> Response:
    """GET /items/{id}/similar: the nearest that are on offer."""
    return await _answer(find_similar, SimilarRequest, {**request.query_params, **request.path_params})


ROUTES = [Route("/items", items), Route("/items/{item_id:path}/similar", similar)]


async def _answer(work: Callable[[Predictor, Asked], Message], kind: type[Asked], told: Mapping[str, Any]) -> Response:
    """In turn with the rankings, beside the event loop."""

    async def computed() -> Any:
        return await bentoml.get_current_service().in_turn(work, kind.model_validate(told))

    reply = await answered(computed())
    return reply if isinstance(reply, Response) else JSONResponse(reply.model_dump())
