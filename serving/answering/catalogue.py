"""GET /items and /items/{id}/similar: what the bundle knows of items, and their nearest neighbours. No HTTP here."""

from typing import Annotated

import numpy as np
from pydantic import BeforeValidator, Field

from contracts.errors import shorten
from serving.answering.predictor import Predictor
from serving.answering.refusal import MAX_NAME, Refusal
from serving.answering.replies import CatalogueItem, ItemsReply, SimilarItem, SimilarReply
from serving.answering.requests import Id, Message, check_id, too_large

MAX_ITEMS = 1000
"""The most items that one answer lists."""


def _split(value: object) -> object:
    """In a query string, ids are separated by commas."""
    return [each for each in value.split(",") if each] if isinstance(value, str) else value


class ItemsRequest(Message):
    """Look up items by id. The answer keeps their order and lists a repeated id once."""

    ids: Annotated[list[Id], BeforeValidator(_split), Field(min_length=1)]


class SimilarRequest(Message):
    """The items on offer that are nearest to one item."""

    item_id: Id
    k: Annotated[int, Field(ge=1)] = 20


def look_up(predictor: Predictor, request: ItemsRequest) -> ItemsReply:
    """Raises ValidationError if there are more than MAX_ITEMS ids, or one is too long."""
    if len(request.ids) > MAX_ITEMS:
        raise too_large(("ids",), "at most {limit} items are looked up at once", MAX_ITEMS, "ItemsRequest")
    check_id(("ids",), max(request.ids, key=len), predictor.limits, "ItemsRequest")
    predictor.store.refresh()
    item_ids = list(dict.fromkeys(request.ids))
    rows = predictor.bundle.index.rows(item_ids)
    entries = predictor.bundle.index.catalogue.take(rows[rows >= 0]).to_pylist()
    by_id = {each["item_id"]: each for each in entries}
    themes = dict(zip(rows.tolist(), _themes(predictor, rows), strict=True))
    items = []
    for item_id, row in zip(item_ids, rows.tolist(), strict=True):
        known, (theme, name) = by_id.get(item_id, {}), themes[row]
        items.append(
            CatalogueItem.model_construct(
                item_id=item_id,
                title=known.get("title"),
                categories=known.get("categories", []),
                theme=theme,
                theme_name=name,
                known=row >= 0,
            )
        )
    return ItemsReply.model_construct(items=items)


def find_similar(predictor: Predictor, request: SimilarRequest) -> SimilarReply:
    """Raises Refusal with status 404 if the bundle does not know the item."""
    if request.k > MAX_ITEMS:
        raise too_large(("k",), "at most {limit} items are answered at once", MAX_ITEMS, "SimilarRequest")
    check_id(("item_id",), request.item_id, predictor.limits, "SimilarRequest")
    predictor.store.refresh()
    index = predictor.bundle.index
    if (row := index.row_of.get(request.item_id)) is None:
        raise Refusal(
            404,
            f"The model knows no item {shorten(request.item_id, MAX_NAME)!r}. GET /items?ids=... says which of several "
            "ids it knows.",
        )
    rows, cosines = index.similar(row, predictor.offering.at(predictor.clock()).on_offer_N, request.k)
    entries = index.catalogue.take(rows).to_pylist()
    near = zip(entries, cosines.tolist(), _themes(predictor, rows), strict=True)
    items = [
        SimilarItem.model_construct(
            item_id=each["item_id"],
            similarity=min(1.0, max(-1.0, cosine)),
            theme=theme,
            theme_name=name,
            title=each["title"],
        )
        for each, cosine, (theme, name) in near
    ]
    return SimilarReply.model_construct(item_id=request.item_id, items=items)


def _themes(predictor: Predictor, rows: np.ndarray) -> list[tuple[int | None, str | None]]:
    """Theme and theme name of each row; (None, None) for row -1 and for an item that belongs to no theme."""
    names = predictor.bundle.theme_names
    routing_NT = predictor.offering.at(predictor.clock()).routing_NT
    if not names or not len(routing_NT):  # a model without themes, or a vocabulary without items
        return [(None, None)] * len(rows)
    themes = []
    for row in rows:
        own_T = routing_NT[row]
        theme = int(own_T.argmax())
        themes.append((theme, names[theme]) if row >= 0 and own_T[theme] > 0 else (None, None))
    return themes
