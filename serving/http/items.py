"""GET /items?ids=a,b and GET /items/{id}/similar?k=20."""

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from serving.answering.catalogue import ItemsRequest, SimilarRequest, find_similar, look_up
from serving.http.asked import computed


async def items(request: Request) -> Response:
    """GET /items: titles, categories and themes."""
    return await computed(request, ItemsRequest, look_up)


async def similar(request: Request) -> Response:
    """GET /items/{id}/similar: the nearest items on offer."""
    return await computed(request, SimilarRequest, find_similar)


ROUTES = [Route("/items", items), Route("/items/{item_id:path}/similar", similar)]
