"""GET /users and GET /users/{user_id}/themes."""

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from serving.answering.users import ThemesRequest, UsersRequest, user_themes, users
from serving.http.asked import computed


async def get_users(http: Request) -> Response:
    """GET /users: ids that start with `prefix`."""
    return await computed(http, UsersRequest, users)


async def get_themes(http: Request) -> Response:
    """GET /users/{user_id}/themes: a user's sessions with their themes, and the active theme."""
    return await computed(http, ThemesRequest, user_themes)


ROUTES = [Route("/users", get_users), Route("/users/{user_id:path}/themes", get_themes)]
