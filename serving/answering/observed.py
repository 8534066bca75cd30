"""An answer -> the figures in GET /metrics, and its line in the request log."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import numpy as np

from serving.answering.recommend import RecommendRequest
from serving.answering.requests import EventsReply, RankReply, RankRequest
from serving.bundle.golden import GoldenRequest
from serving.watching import metrics
from serving.watching.seen import Seen
from serving.watching.stages import Spent

KNOWN, COLD, AWAY = "known", "cold", "store_away"


def observe_ranking(route: str, reply: RankReply, spent: Spent | None) -> None:
    """Count one answer of /rank or /recommend."""
    user = AWAY if reply.history.store_away else COLD if reply.cold_start_user else KNOWN
    metrics.RANKINGS.labels(route, user).inc()
    cold = set(reply.cold_start_items)
    num_cold = sum(item.item_id in cold for item in reply.items) if cold else 0
    metrics.RANKED.labels("cold").inc(num_cold)
    metrics.RANKED.labels("known").inc(len(reply.items) - num_cold)
    metrics.HISTORY_LENGTH.observe(reply.history.length)
    if (newest := reply.history.newest_event_at) is not None:
        age = datetime.fromisoformat(reply.at) - datetime.fromisoformat(newest)
        metrics.HISTORY_AGE.observe(age.total_seconds())
    if reply.themes:
        metrics.THEMES.labels(str(reply.themes[0].theme)).inc()
    if spent is not None:
        metrics.observe_stages(spent)
        if spent.logits is not None:
            metrics.observe_scores(route, spent.logits)


def observe_events(reply: EventsReply) -> None:
    """Count the fates in one answer of /events."""
    fates = [event.fate for event in reply.events]
    for fate in set(fates):
        metrics.EVENTS.labels(fate).inc(fates.count(fate))


def expect(golden: Sequence[GoldenRequest]) -> None:
    """Set the scores that live scores are compared with: those of the bundle's golden requests."""
    metrics.expect_scores(np.concatenate([np.asarray(each.logits, np.float32) for each in golden]))


def line_of(request: RankRequest | RecommendRequest, reply: RankReply, seen: Seen) -> dict[str, Any]:
    """One line of the request log: everything needed to rank the request again."""
    return {
        "at": reply.at,
        "request_id": seen.request_id,
        "route": seen.route,
        "asked": request.model_dump(mode="json", exclude_defaults=True),
        "scores": {item.item_id: item.score for item in reply.items},
        "impression_id": reply.impression_id,
        "model_version": reply.model_version,
        "snapshot_id": reply.snapshot_id,
        "cold_start_user": reply.cold_start_user,
        "store_away": reply.history.store_away,
    }
