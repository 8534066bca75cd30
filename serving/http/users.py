"""GET /users and GET /users/{user_id}/themes."""

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from serving.answering.users import ThemesRequest, UsersRequest, user_themes, users
from serving.http.asked import computed


async def get_users(http: Request) -> Response:
    """Users whose id begins with `prefix`."""
    return await computed(http, UsersRequest, users)


async def get_themes(http: Request) -> Response:
    """The sessions of a user with their themes, and the active theme."""
    return await computed(http, ThemesRequest, user_themes)


ROUTES = [Route("/users", get_users), Route("/users/{user_id:path}/themes", get_themes)]
