"""The messages of every route -> the OpenAPI 3.1 document of GET /docs.json. BentoML's own has other error answers.

A route enters the document by a line in OPERATIONS.
"""

from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Literal, NamedTuple

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from serving.answering.catalogue import MAX_ITEMS, ItemsReply, ItemsRequest, SimilarReply, SimilarRequest
from serving.answering.recommend import RecommendReply, RecommendRequest
from serving.answering.refusal import CODES, JSON, RETRY_AFTER_S
from serving.answering.requests import ID_PATTERN, EventsReply, EventsRequest, Message, RankReply, RankRequest
from serving.answering.users import ThemesReply, ThemesRequest, UsersReply, UsersRequest
from serving.http import examples

REF = "#/components/schemas/{model}"
EVERYWHERE = (401, 403, 421, 500, 504)
POSTED = (400, 408, 413, 415, 429, 503)
COMPUTED = (400, 404, 429, 503)
MEANINGS = {
    400: "The request is invalid: `field` names the faulty field.",
    401: "A token is required, and none or an unknown one was sent.",
    403: "The token does not allow this.",
    404: "There is nothing with this name.",
    408: "The body did not arrive in time.",
    413: "The body is larger than any request within the limits.",
    415: "The body is not plain JSON in UTF-8.",
    421: "The request is for a host that this service does not answer to.",
    429: "The service is too busy, or this caller exceeds its rate: try again after `retry-after` seconds.",
    500: "The service failed; its log says why.",
    503: "The online store does not answer, or the request's turn did not come. Nothing was stored, unless the message "
    "says that events may have been: sent again, none is stored twice.",
    504: "There was no answer in time.",
}


class Refused(BaseModel):
    """The reason of an error answer."""

    code: Literal[*sorted(set(CODES.values())), "refused"]  # pyright: ignore[reportInvalidTypeForm]
    message: str
    field: str | None


class ErrorReply(BaseModel):
    """The body of every answer with a status from 400 on, on every route."""

    error: Refused


class Operation(NamedTuple):
    """One route. asked: its body if posted, else its path and query. reply: None for an answer of type `media`."""

    method: str
    path: str
    name: str
    summary: str
    asked: type[Message] | None
    reply: type[Message] | None
    statuses: tuple[int, ...]
    example: examples.Example
    media: str = JSON


OPERATIONS = (
    Operation("post", "/rank", "rank", "Rank candidates", RankRequest, RankReply, POSTED, examples.RANK),
    Operation(
        "post", "/recommend", "recommend", "Recommend items to a user",
        RecommendRequest, RecommendReply, POSTED, examples.RECOMMEND,
    ),
    Operation("post", "/events", "events", "Report events", EventsRequest, EventsReply, POSTED, examples.EVENTS),
    Operation("get", "/users", "users", "Users by prefix", UsersRequest, UsersReply, COMPUTED, examples.USERS),
    Operation(
        "get", "/users/{user_id}/themes", "themes", "A user's sessions with their themes, and the active theme",
        ThemesRequest, ThemesReply, COMPUTED, examples.THEMES,
    ),
    Operation("get", "/items", "items", "Catalogue of items", ItemsRequest, ItemsReply, COMPUTED, examples.ITEMS),
    Operation(
        "get", "/items/{item_id}/similar", "similar", "The items nearest to one, among those on offer",
        SimilarRequest, SimilarReply, COMPUTED, examples.SIMILAR,
    ),
    Operation("get", "/info", "info", "The served model and its limits", None, None, (), examples.INFO),
    Operation("get", "/livez", "livez", "Whether the process is alive", None, None, (), examples.NOTHING, "text/plain"),
    Operation("get", "/readyz", "readyz", "Whether it can answer", None, None, (503,), examples.NOTHING, "text/plain"),
    Operation("get", "/metrics", "metrics", "Metrics for Prometheus", None, None, (), examples.NOTHING, "text/plain"),
)  # fmt: skip


class Bounds(NamedTuple):
    """The bundle's limits of requests."""

    max_candidates: int
    max_events: int
    max_id_length: int
    max_recommended: int
    beside: tuple[str, ...] = ()  # models that a request may name


@lru_cache(maxsize=4)
def document(version: str, bounds: Bounds, is_guarded: bool) -> dict[str, Any]:
    """The document. is_guarded: whether tokens are required."""
    schemas = _schemas()
    _bound(schemas, bounds)
    paths: dict[str, dict[str, Any]] = {}
    for each in OPERATIONS:
        paths.setdefault(each.path, {})[each.method] = _operation(each, schemas)
    return {
        "openapi": "3.1.0",
        "info": {"title": "leitmotif", "version": version, "description": "Ranks items by the theme a user is in now."},
        "security": [{"bearer": []}] if is_guarded else [{}, {"bearer": []}],
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}},
        },
    }


def _schemas() -> dict[str, Any]:
    asked = [(each.asked, "validation") for each in OPERATIONS if each.asked]
    replies = [(each.reply, "serialization") for each in OPERATIONS if each.reply]
    _, found = models_json_schema([*asked, *replies, (ErrorReply, "serialization")], ref_template=REF)  # type: ignore[list-item]
    return found["$defs"]


def _bound(schemas: Mapping[str, Any], bounds: Bounds) -> None:
    """Set the limits in the schemas; they come from the bundle, not from the message classes."""
    schemas["RankRequest"]["properties"]["candidates"]["maxItems"] = bounds.max_candidates
    schemas["EventsRequest"]["properties"]["events"]["maxItems"] = bounds.max_events
    schemas["RecommendRequest"]["properties"]["k"]["maximum"] = bounds.max_recommended
    schemas["ItemsRequest"]["properties"]["ids"]["maxItems"] = MAX_ITEMS
    schemas["SimilarRequest"]["properties"]["k"]["maximum"] = MAX_ITEMS
    for message in ("RankRequest", "RecommendRequest"):
        of_model = schemas[message]["properties"]["model"]
        of_model["anyOf"] = [{"type": "string", "enum": list(bounds.beside)}] * bool(bounds.beside) + [{"type": "null"}]
    for node in _nodes(schemas):
        if node.get("pattern") == ID_PATTERN:
            node["maxLength"] = bounds.max_id_length


def _nodes(value: Any) -> Any:
    """All objects of a document."""
    if isinstance(value, dict):
        yield value
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _nodes(inner)


def _operation(each: Operation, schemas: Mapping[str, Any]) -> dict[str, Any]:
    described = {
        "operationId": each.name,
        "summary": each.summary,
        "responses": {"200": _answer(each)} | {str(status): _refusal(status) for status in _statuses(each)},
    }
    if each.asked is not None and each.method == "post":
        content = {"schema": _ref(each.asked), "example": each.example.asked}
        described["requestBody"] = {"required": True, "content": {JSON: content}}
    elif each.asked is not None:
        described["parameters"] = _parameters(each, schemas[each.asked.__name__])
    return described


def _statuses(each: Operation) -> list[int]:
    return sorted({*each.statuses, *EVERYWHERE} - ({401, 403, 421} if each.path in ("/livez", "/readyz") else set()))


def _answer(each: Operation) -> dict[str, Any]:
    if each.media != JSON:
        return {"description": each.summary, "content": {each.media: {"schema": {"type": "string"}}}}
    schema = {"type": "object"} if each.reply is None else _ref(each.reply)
    return {"description": each.summary, "content": {JSON: {"schema": schema, "example": each.example.reply}}}


def _refusal(status: int) -> dict[str, Any]:
    code = CODES[status]
    example = {"error": {"code": code, "message": MEANINGS[status], "field": "user_id" if status == 400 else None}}
    answer: dict[str, Any] = {
        "description": MEANINGS[status],
        "content": {JSON: {"schema": _ref(ErrorReply), "example": example}},
    }
    if status in RETRY_AFTER_S:
        seconds = {"type": "integer", "minimum": 0}
        answer["headers"] = {"retry-after": {"schema": seconds, "description": "Seconds.", "required": True}}
    return answer


def _parameters(each: Operation, schema: Mapping[str, Any]) -> list[dict[str, Any]]:
    found = []
    for name, described in schema["properties"].items():
        is_path = f"{{{name}}}" in each.path
        parameter: dict[str, Any] = {"name": name, "in": "path" if is_path else "query", "schema": _plain(described)}
        parameter["required"] = name in schema.get("required", ())
        parameter |= {"style": "form", "explode": False} if parameter["schema"].get("type") == "array" else {}
        found.append(parameter | ({"example": each.example.asked[name]} if name in each.example.asked else {}))
    return found


def _plain(described: Mapping[str, Any]) -> Mapping[str, Any]:
    """The schema without null: in a query a missing field is null."""
    inner = [each for each in described.get("anyOf", ()) if each.get("type") != "null"]
    return inner[0] if len(inner) == 1 else described


def _ref(message: type[BaseModel]) -> dict[str, str]:
    return {"$ref": REF.format(model=message.__name__)}
