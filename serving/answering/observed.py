"""What was answered -> the figures of GET /metrics: who was known, how old their events were, themes, scores."""

from collections.abc import Sequence
from datetime import datetime

import numpy as np

from serving.answering.requests import EventsReply, RankReply
from serving.bundle.golden import GoldenRequest
from serving.watching import metrics
from serving.watching.stages import Spent

KNOWN, COLD, AWAY = "known", "cold", "store_away"


def observe_ranking(route: str, reply: RankReply, spent: Spent | None) -> None:
    """One answer of /rank or /recommend."""
    user = AWAY if reply.history.store_away else COLD if reply.cold_start_user else KNOWN
    metrics.RANKINGS.labels(route, user).inc()
    cold = set(reply.cold_start_items)
    num_cold = sum(item.item_id in cold for item in reply.items)
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
            metrics.observe_scores(spent.logits)


def observe_events(reply: EventsReply) -> None:
    """One answer of /events."""
    fates = [event.fate for event in reply.events]
    for fate in set(fates):
        metrics.EVENTS.labels(fate).inc(fates.count(fate))


def expect(golden: Sequence[GoldenRequest]) -> None:
    """Scores are compared with those of the bundle's own requests, which the model was tested on."""
    metrics.expect_scores(np.concatenate([np.asarray(each.logits, np.float32) for each in golden]))
