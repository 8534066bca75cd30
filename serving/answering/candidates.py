"""Candidate retrieval: the user's current themes and the items on offer -> candidates, each with its source.

Each current theme queries the index with the mean vector of its newest events; popular and new items of these themes
are added. Shapes: N items of the vocabulary, D width, T themes, E events of the user.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from serving.answering.offers import Offers
from serving.answering.replies import Source
from serving.bundle.index import ItemIndex, best, best_of
from serving.params import RetrievalParams

Int64 = npt.NDArray[np.int64]
Float32 = npt.NDArray[np.float32]
Floats = npt.NDArray[np.floating]
Bool = npt.NDArray[np.bool_]

POOLED = -1
"""The theme of a user's only interest if the model has no themes."""


class Interest(NamedTuple):
    """One current theme of a user."""

    theme: int  # POOLED if the model has no themes
    share: float  # of the user's current interest; a user's shares add up to 1
    query_D: Float32 | None  # None: no event of the user belongs to the theme


def interests(
    params: RetrievalParams, index: ItemIndex, rows: Int64, routing_ET: Float32, current_T: Float32
) -> list[Interest]:
    """The user's num_themes largest current themes, each with the mean vector of its newest events.

    rows: the index row of each event's item, oldest first; -1 if the vocabulary lacks the item. routing_ET: how much
    each event belongs to each theme. A model without themes gives one interest, the mean of the newest events; a user
    without events has none.
    """
    if not len(rows):
        return []
    if not len(current_T):
        return [Interest(POOLED, 1.0, _mean(params, index, rows))]
    theme_E = np.where(routing_ET.max(axis=1) > 0, routing_ET.argmax(axis=1), POOLED)
    largest = np.argsort(-current_T, kind="stable")[: params.num_themes]
    total = float(current_T[largest].sum())
    return [
        Interest(int(theme), float(current_T[theme]) / total, _mean(params, index, rows[theme_E == theme]))
        for theme in largest
    ]


def find(
    params: RetrievalParams, index: ItemIndex, offers: Offers, found: Sequence[Interest], among_N: Bool
) -> dict[int, Source]:
    """At most num_candidates: index row of each -> its source. among_N: the items that may be recommended to the user.

    The quotas of popular items, new items and items of the themes are each divided among the interests by share; places
    that remain are filled with the most clicked items of any theme. An item found twice keeps its first source.
    """
    taken: dict[int, Source] = {}
    num, free_N = params.num_candidates, among_N.copy()
    for search in _searches(params, index, offers, found):
        rows = np.flatnonzero(free_N if search.among_N is None else free_N & search.among_N)
        wanted = min(search.wanted, num - len(taken))  # shares are rounded, some upwards
        rows = best_of(search.score_of(rows), rows, wanted)
        taken |= dict.fromkeys(rows.tolist(), search.source)
        free_N[rows] = False
    if (num_open := num - len(taken)) > 0:
        taken |= dict.fromkeys(best(offers.clicks_N, free_N, num_open).tolist(), "popular")
    return taken


class _Search(NamedTuple):
    """One pass over the catalogue."""

    source: Source
    score_of: Callable[[Int64], Floats]  # of rows, which are all that qualify and are free
    among_N: Bool | None  # items that qualify; None: all
    wanted: int


def _searches(
    params: RetrievalParams, index: ItemIndex, offers: Offers, found: Sequence[Interest]
) -> Iterator[_Search]:
    """The searches that want any item."""
    num = params.num_candidates
    of_new, of_popular = params.new_share * num, params.popular_share * num
    of_theme = num - of_new - of_popular
    for interest in found:
        if (query_D := interest.query_D) is not None and (wanted := round(interest.share * of_theme)):
            close_N = index.vector_ND @ query_D + params.theme_weight * _belonging(offers, interest)
            yield _Search("theme", close_N.take, None, wanted)
    clicked_N = offers.clicks_N > 0
    for interest in found:
        belonging_N = _belonging(offers, interest)
        if wanted := round(interest.share * of_popular):
            yield _Search("popular", partial(_popularity, belonging_N, offers.clicks_N), clicked_N, wanted)
        if wanted := round(interest.share * of_new):
            yield _Search("new", belonging_N.take, offers.new_N, wanted)
    if not found and (wanted := round(of_new)):  # an unknown user: `find` adds popular items
        yield _Search("new", offers.born_N.astype(np.float64).take, offers.new_N, wanted)


def _popularity(belonging_N: Floats, clicks_N: Int64, rows: Int64) -> Floats:
    return belonging_N[rows] * np.log1p(clicks_N[rows])


def _belonging(offers: Offers, interest: Interest) -> Floats:
    """[N] how much each item belongs to the interest's theme; 1 for all if the model has no themes."""
    num_items, _ = offers.routing_NT.shape
    return np.ones(num_items) if interest.theme == POOLED else offers.routing_NT[:, interest.theme]


def _mean(params: RetrievalParams, index: ItemIndex, rows: Int64) -> Float32 | None:
    newest = rows[rows >= 0][-params.num_recent :]
    return index.vector_ND[newest].mean(axis=0) if len(newest) else None
