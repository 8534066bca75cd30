"""POST /recommend: a user and a time -> items retrieved, ranked and mixed. The ranking code is that of /rank."""

from typing import Annotated, NamedTuple

import numpy as np
from pydantic import Field

from features.encoding.asked import NO_CONTEXT, Context
from serving.answering import candidates
from serving.answering.candidates import Interest
from serving.answering.offers import Offers
from serving.answering.predictor import Answer, Predictor
from serving.answering.replies import RecommendedItem, RecommendReply
from serving.answering.requests import (
    BYTES_OF_A_CHARACTER,
    MAX_SUPPOSED,
    Beside,
    Id,
    Message,
    RankReply,
    RankRequest,
    RequestContext,
    Supposed,
    Time,
    check_id,
    to_iso,
    to_microseconds,
    too_large,
)
from serving.answering.shares import by_distance, by_share
from serving.bundle.reading import read_codes
from serving.bundle.scorer import NO_EVENTS, Events
from serving.params import ServeParams
from serving.watching.stages import RETRIEVAL, USER_SIDE, stage

NOTHING = ""
"""The id of no item. It is ranked when retrieval finds nothing, since the rest of the answer comes from a ranking."""


class RecommendRequest(Message):
    """Retrieve and rank items for a user."""

    user_id: Id
    k: Annotated[int, Field(strict=True, ge=1)] = 20  # items wanted; at most serve.retrieval.num_candidates
    at: Time | None = None
    context: RequestContext | None = None
    diversity: Annotated[float, Field(strict=True, ge=0, le=1, allow_inf_nan=False)] | None = None
    """Weight of the list's theme shares against the scores (shares.py); null: serve.retrieval.diversity."""
    exclude_seen: Annotated[bool, Field(strict=True)] = True  # leave out the items of the user's stored history
    preview: Annotated[bool, Field(strict=True)] = False  # true: nobody is shown the answer, so it is not recorded
    suppose: Supposed = Field(default_factory=list)  # items to treat as just clicked, oldest first; never recorded
    model: Beside | None = None  # as in /rank


class Moment(NamedTuple):
    """What is read once per request."""

    at: int  # us
    known: Events  # the user's events that are known at that time
    offers: Offers
    current_T: np.ndarray  # the user's current interest by theme; T is 0 for a model without themes


def recommend(predictor: Predictor, request: RecommendRequest) -> Answer:
    """The list of at most k items on offer, first place first; shorter if fewer may be recommended.

    The list as answered is recorded as shown. Raises pydantic's ValidationError if the request exceeds the limits.
    """
    predictor = predictor.of(request.model)
    check_recommend_limits(request, predictor.limits)
    predictor.store.refresh()
    moment, found = look(predictor, request)
    index, params = predictor.bundle.index, predictor.limits.retrieval
    item_ids = index.item_ids
    with stage(RETRIEVAL):
        among_N = allowed(predictor, request, moment)
        sources = {
            item_ids[row]: source
            for row, source in candidates.find(params, index, moment.offers, found, among_N).items()
        }
    ranked = _ranked(predictor, request, moment, list(sources))
    chosen = [ranked.items[place] for place in places(predictor, request, moment, ranked)] if sources else []
    items = [RecommendedItem.unvalidated(**vars(item), source=sources[item.item_id]) for item in chosen]
    names = [item.item_id for item in items]
    cold = set(ranked.cold_start_items)
    shown = predictor.shown(request, names, moment.at, _context(request)) if names else None
    reply = RecommendReply.model_construct(
        **dict(ranked)
        | {
            "items": items,
            "cold_start_items": [name for name in names if name in cold],
            "impression_id": None if shown is None else shown.impression_id,
        }
    )
    return Answer(reply, shown)


def check_recommend_limits(request: RecommendRequest, limits: ServeParams) -> None:
    """Raise ValidationError if the request exceeds the bundle's limits."""
    title = "RecommendRequest"
    if request.k > (most := limits.retrieval.num_candidates):
        raise too_large(("k",), "at most {limit} items are recommended at once", most, title)
    context = request.context or RequestContext()
    check_id(("user_id",), request.user_id, limits, title)
    check_id(("suppose",), max(request.suppose, key=len, default=None), limits, title)
    for name in ("device", "reading_item_id"):
        check_id(("context", name), getattr(context, name), limits, title)


def max_recommend_bytes(limits: ServeParams) -> int:
    """The most bytes of UTF-8 that a request within the limits can take."""
    return BYTES_OF_A_CHARACTER * (MAX_SUPPOSED + 3) * (limits.max_id_length + 4) + 4096


def look(predictor: Predictor, request: RecommendRequest) -> tuple[Moment, list[Interest]]:
    """The user's interests and the catalogue as of the request's time."""
    at = predictor.clock() if request.at is None else to_microseconds(request.at)
    bundle, events = predictor.bundle, predictor.events(request.user_id, request.suppose, at) or NO_EVENTS
    scorer, known = bundle.scorer, events.between(0, bundle.scorer.known_events(events, at))
    codes, _ = read_codes(scorer, predictor.store, known, [], at)
    with stage(USER_SIDE):
        current_T, encoded = scorer.current(known, at, codes), scorer.encode(known, at)
        read = scorer.newest_events(known, at, scorer.spec.history_length)
        routing_ET = scorer.routing(encoded, codes)[encoded.mask[0]]
    rows = bundle.index.rows(read.item_ids)
    found = candidates.interests(predictor.limits.retrieval, bundle.index, rows, routing_ET, current_T)
    return Moment(at, known, predictor.offering.at(at), current_T), found


def allowed(predictor: Predictor, request: RecommendRequest, moment: Moment) -> np.ndarray:
    """[N] items on offer, except the item being read and, if exclude_seen is set, those the user has seen."""
    allowed_N = moment.offers.on_offer_N.copy()
    gone = _seen(predictor, request, moment) if request.exclude_seen else []
    if request.context is not None and request.context.reading_item_id is not None:
        gone.append(request.context.reading_item_id)
    rows = predictor.bundle.index.rows(gone)
    allowed_N[rows[rows >= 0]] = False
    return allowed_N


def _seen(predictor: Predictor, request: RecommendRequest, moment: Moment) -> list[str]:
    """Items of the stored history, including events younger than history.lag_s, which the model does not read yet."""
    known = list(moment.known.item_ids)
    if not predictor.bundle.scorer.spec.history_lag_s:
        return known
    stored = predictor.events(request.user_id) or NO_EVENTS
    return known + list(stored.item_ids[: int(np.searchsorted(stored.occurred_at, moment.at))])


def _ranked(predictor: Predictor, request: RecommendRequest, moment: Moment, item_ids: list[str]) -> RankReply:
    """All candidates ranked as /rank ranks them. Without candidates the reply still describes the user."""
    asked = RankRequest.model_construct(
        user_id=request.user_id,
        candidates=item_ids or [NOTHING],
        at=to_iso(moment.at),
        context=request.context,
        preview=True,
        suppose=request.suppose,
    )
    return predictor.answer(asked).reply


def places(predictor: Predictor, request: RecommendRequest, moment: Moment, ranked: RankReply) -> np.ndarray:
    """Positions in the ranking of the items to answer, in order."""
    index, wanted = predictor.bundle.index, request.diversity
    diversity = predictor.limits.retrieval.diversity if wanted is None else wanted
    rows = index.rows([item.item_id for item in ranked.items])
    probability_M = np.array([item.score for item in ranked.items])
    if not len(moment.current_T):
        return by_distance(probability_M, index.unit_ND[rows], request.k, diversity)
    if ranked.cold_start_user:  # an unknown user has no current theme to balance
        return np.arange(min(request.k, len(rows)))
    return by_share(probability_M, moment.offers.routing_NT[rows], moment.current_T, request.k, diversity)


def _context(request: RecommendRequest) -> Context:
    return NO_CONTEXT if request.context is None else Context(**request.context.model_dump())
