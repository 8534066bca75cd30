"""GET /items and /items/{id}/similar: what the bundle says of items, and which are near each other. No HTTP here."""

from typing import Annotated

import numpy as np
from pydantic import BeforeValidator, Field

from contracts.errors import shorten
from serving.answering.predictor import Predictor
from serving.answering.refusal import MAX_NAME, Refusal
from serving.answering.requests import Id, Message, check_id, too_large

MAX_ITEMS = 1000
"""Of one answer."""


def _parted(value: object) -> object:
    """A query's list is parted by commas."""
    return [each for each in value.split(",") if each] if isinstance(value, str) else value


class ItemsRequest(Message):
    """Items by their ids, in the order given; each once."""

    ids: Annotated[list[Id], BeforeValidator(_parted), Field(min_length=1)]


class CatalogueItem(Message):
    """What is known of an item."""

    item_id: str
    title: str | None
    categories: list[str]
    theme: int | None  # by what the model knows now; null where it knows nothing of the item, or has no themes
    theme_name: str | None
    known: bool  # the model's vocabulary holds the item


class ItemsReply(Message):
    """One entry an id, in the order given."""

    items: list[CatalogueItem]


class SimilarRequest(Message):
    """The items nearest to one, among those on offer."""

    item_id: Id
    k: Annotated[int, Field(ge=1)] = 20


class SimilarItem(Message):
    """One neighbour."""

    item_id: str
    similarity: float  # the cosine of the model's vectors, in [-1, 1]
    theme: int | None
    theme_name: str | None
    title: str | None


class SimilarReply(Message):
    """Nearest first."""

    item_id: str
    items: list[SimilarItem]


def look_up(predictor: Predictor, request: ItemsRequest) -> ItemsReply:
    """Raises ValidationError where there are too many or one is too long."""
    if len(request.ids) > MAX_ITEMS:
        raise too_large(("ids",), "at most {limit} items are looked up at once", MAX_ITEMS, "ItemsRequest")
    check_id(("ids",), max(request.ids, key=len), predictor.limits, "ItemsRequest")
    predictor.store.refresh()
    item_ids = list(dict.fromkeys(request.ids))
    rows = predictor.bundle.index.rows(item_ids)
    told = predictor.bundle.index.catalogue.take(rows[rows >= 0]).to_pylist()
    by_id = {each["item_id"]: each for each in told}
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
    """Raises Refusal, a 404, where the bundle does not know the item."""
    if request.k > MAX_ITEMS:
        raise too_large(("k",), "at most {limit} items are answered at once", MAX_ITEMS, "SimilarRequest")
    check_id(("item_id",), request.item_id, predictor.limits, "SimilarRequest")
    predictor.store.refresh()
    index = predictor.bundle.index
    if (row := index.row_of.get(request.item_id)) is None:
        raise Refusal(
            404,
            f"The model knows no item {shorten(request.item_id, MAX_NAME)!r}. GET /items?ids= says of several which it "
            "knows.",
        )
    rows, cosines = index.similar(row, predictor.offering.at(predictor.clock()).on_offer_N, request.k)
    told = index.catalogue.take(rows).to_pylist()
    near = zip(told, cosines.tolist(), _themes(predictor, rows), strict=True)
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
    """The theme and its name of each row; nothing for -1 and for what belongs to none."""
    names = predictor.bundle.theme_names
    routing_NT = predictor.offering.at(predictor.clock()).routing_NT
    if not names or not len(routing_NT):  # a model without themes, or a vocabulary without items
        return [(None, None)] * len(rows)
    told = []
    for row in rows:
        own_T = routing_NT[row]
        theme = int(own_T.argmax())
        told.append((theme, names[theme]) if row >= 0 and own_T[theme] > 0 else (None, None))
    return told
