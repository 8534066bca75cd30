"""POST /recommend: a user and a time -> found, ranked and mixed items. The ranking is that of /rank, line by line."""

from typing import Annotated, NamedTuple

import numpy as np
from pydantic import Field

from features.encoding.asked import NO_CONTEXT, Context
from serving.answering import candidates
from serving.answering.candidates import Interest, Source
from serving.answering.offers import Offers
from serving.answering.predictor import Answer, Predictor
from serving.answering.requests import (
    BYTES_OF_A_CHARACTER,
    MAX_SUPPOSED,
    Beside,
    Id,
    Message,
    RankedItem,
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
"""The id of no item: what is ranked where nothing is found, for the rest of the answer."""


class RecommendRequest(Message):
    """Find and order items for a user."""

    user_id: Id
    k: Annotated[int, Field(strict=True, ge=1)] = 20  # answers wanted, of serve.retrieval.num_candidates at most
    at: Time | None = None
    context: RequestContext | None = None
    diversity: Annotated[float, Field(strict=True, ge=0, le=1, allow_inf_nan=False)] | None = None
    """How much the list's shares of themes count beside the scores (shares.py); null: serve.retrieval.diversity."""
    exclude_seen: Annotated[bool, Field(strict=True)] = True  # leave out what is in the user's stored history
    preview: Annotated[bool, Field(strict=True)] = False  # true: nobody is shown the answer, so it is not remembered
    suppose: Supposed = Field(default_factory=list)  # items as if just clicked, oldest first; then never remembered
    model: Beside | None = None  # as of /rank


class RecommendedItem(RankedItem):
    """One answer."""

    source: Source  # why it was among the candidates: near a current theme's events, clicked now, or new


class RecommendReply(RankReply):
    """As of /rank. cold_start_items: of those that are answered."""

    items: list[RecommendedItem]  # pyright: ignore[reportIncompatibleVariableOverride]


class Moment(NamedTuple):
    """What a request reads once."""

    at: int  # us
    known: Events  # what is known of the user by then
    offers: Offers
    current_T: np.ndarray  # where the user is; T is 0 of a model without themes


def recommend(predictor: Predictor, request: RecommendRequest) -> Answer:
    """At most k items that are on offer, the first first; fewer where there are fewer.

    What is remembered as shown is the list as it is answered. Raises pydantic's ValidationError where the request is
    beyond the limits.
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
    items = [RecommendedItem.made(**vars(item), source=sources[item.item_id]) for item in chosen]
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
    """Raise ValidationError where more is asked for than the bundle's limits allow."""
    title = "RecommendRequest"
    if request.k > (most := limits.retrieval.num_candidates):
        raise too_large(("k",), "at most {limit} items are recommended at once", most, title)
    told = request.context or RequestContext()
    check_id(("user_id",), request.user_id, limits, title)
    check_id(("suppose",), max(request.suppose, key=len, default=None), limits, title)
    for name in ("device", "reading_item_id"):
        check_id(("context", name), getattr(told, name), limits, title)


def max_recommend_bytes(limits: ServeParams) -> int:
    """The largest body of UTF-8 that a request within the limits needs."""
    return BYTES_OF_A_CHARACTER * (MAX_SUPPOSED + 3) * (limits.max_id_length + 4) + 4096


def look(predictor: Predictor, request: RecommendRequest) -> tuple[Moment, list[Interest]]:
    """Where the user is, and what the catalogue is."""
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
    """[N] what is on offer, without what the user has had where that is asked for, and without what is being read."""
    allowed_N = moment.offers.on_offer_N.copy()
    gone = _seen(predictor, request, moment) if request.exclude_seen else []
    if request.context is not None and request.context.reading_item_id is not None:
        gone.append(request.context.reading_item_id)
    rows = predictor.bundle.index.rows(gone)
    allowed_N[rows[rows >= 0]] = False
    return allowed_N


def _seen(predictor: Predictor, request: RecommendRequest, moment: Moment) -> list[str]:
    """Items of the stored history, those too that are younger than history.lag_s, which the model does not know yet."""
    known = list(moment.known.item_ids)
    if not predictor.bundle.scorer.spec.history_lag_s:
        return known
    stored = predictor.events(request.user_id) or NO_EVENTS
    return known + list(stored.item_ids[: int(np.searchsorted(stored.occurred_at, moment.at))])


def _ranked(predictor: Predictor, request: RecommendRequest, moment: Moment, item_ids: list[str]) -> RankReply:
    """All candidates by the path of /rank. Where there are none, the rest of the answer: who the user is."""
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
    """Which of the ranked items are answered, in order."""
    index, told = predictor.bundle.index, request.diversity
    diversity = predictor.limits.retrieval.diversity if told is None else told
    rows = index.rows([item.item_id for item in ranked.items])
    probability_M = np.array([item.score for item in ranked.items])
    if not len(moment.current_T):
        return by_distance(probability_M, index.unit_ND[rows], request.k, diversity)
    if ranked.cold_start_user:  # nobody knows where a stranger is: no theme has a share
        return np.arange(min(request.k, len(rows)))
    return by_share(probability_M, moment.offers.routing_NT[rows], moment.current_T, request.k, diversity)


def _context(request: RecommendRequest) -> Context:
    return NO_CONTEXT if request.context is None else Context(**request.context.model_dump())
