"""The service's metrics, summed over its workers, in the text format of Prometheus.

Labels have few values: routes, statuses, stages, themes, fates; never ids of users or items. BentoML's own metrics are
turned off, because they have a series for each path, and paths contain ids of users (1.4.39).
"""

import os
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import prometheus_client as prometheus
from prometheus_client import multiprocess

from serving.watching.stages import STAGES, Spent

FOLDER_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
"""The folder in which workers share their metrics; BentoML sets it."""
CONTENT_TYPE = prometheus.CONTENT_TYPE_LATEST
REQUEST_S = (0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2, 3)
STAGE_S = (0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.1, 0.5, 1, 2)
AGES_S = (60, 600, 3600, 6 * 3600, 86_400, 7 * 86_400, 30 * 86_400, 90 * 86_400)
LENGTHS = (0, 10, 50, 100, 200, 500, 1000)
SCORE_BINS = np.array([0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.7, 0.9, 1.0])
"""Upper ends of the bins, chosen so that few requests fill each bin."""

REQUESTS = prometheus.Counter("leitmotif_requests", "Answered requests", ("route", "status"))
REQUEST_SECONDS = prometheus.Histogram(
    "leitmotif_request_seconds", "Seconds from headers to answer", ("route",), buckets=REQUEST_S
)
IN_FLIGHT = prometheus.Gauge("leitmotif_requests_in_flight", "Requests in progress", multiprocess_mode="livesum")
REFUSED = prometheus.Counter("leitmotif_refused", "Refused requests", ("cause",))
STAGE_SECONDS = prometheus.Histogram(
    "leitmotif_stage_seconds", "Seconds of a request's stages", ("stage",), buckets=STAGE_S
)
RANKINGS = prometheus.Counter("leitmotif_rankings", "Rankings, by whether the user has a history", ("route", "user"))
RANKED = prometheus.Counter("leitmotif_items_answered", "Items in rankings, by whether training knew them", ("item",))
HISTORY_AGE = prometheus.Histogram(
    "leitmotif_history_age_seconds", "Seconds from a user's newest event to the ranking", buckets=AGES_S)  # fmt: skip
HISTORY_LENGTH = prometheus.Histogram("leitmotif_history_events", "Events of a ranked user", buckets=LENGTHS)
THEMES = prometheus.Counter("leitmotif_rankings_by_theme", "Rankings, by the theme the user is in", ("theme",))
SCORES = prometheus.Counter("leitmotif_candidate_scores", "Scores of candidates up to a bin's end", ("route", "up_to"))
EXPECTED = prometheus.Gauge(
    "leitmotif_expected_score_share",
    "Share of the bundle's golden candidates with scores up to a bin's end",
    ("up_to",),
    multiprocess_mode="mostrecent",
)
EVENTS = prometheus.Counter("leitmotif_events", "Posted events, by fate", ("fate",))
KEPT = prometheus.Counter("leitmotif_rankings_kept", "Delivered rankings that were stored as shown")
LOST = prometheus.Counter("leitmotif_rankings_lost", "Delivered rankings that could not be stored")
WITHHELD = prometheus.Counter("leitmotif_rankings_withheld", "Rankings without impression_id: storing is suspended")
OVER_LIMIT = prometheus.Counter("leitmotif_rankings_over_limit", "Rankings without impression_id: too many live rows")
WITHOUT_STORE = prometheus.Counter("leitmotif_rankings_without_store", "Rankings without history: no store")
TAKEN = prometheus.Counter("leitmotif_bundles_taken", "Bundles that were swapped in while the service ran")
UNLOGGED = prometheus.Counter("leitmotif_requests_unlogged", "Rankings that the request log could not take")
LATEST: Mapping[str, prometheus.Gauge] = {
    name: prometheus.Gauge(f"leitmotif_{name}", text, multiprocess_mode="mostrecent")
    for name, text in (
        ("live_rows", "Live rows in a worker's memory"),
        ("live_bytes", "Approximate bytes of live rows in a worker's memory"),
        ("live_rows_limit", "serve.max_live_rows: with more, rankings are not stored"),
        ("tail_bytes", "Bytes of the store of live events"),
        ("bundle_refused", "1 if the newest bundle was refused"),
        ("worker_resident_bytes", "Memory of the worker that answered this"),
    )
}
"""Gauges that are about equal in every worker: reported by the worker that is asked."""


@lru_cache(maxsize=256)
def counted_request(route: str, status: int) -> prometheus.Counter:
    """The counter of a route and status, cached, since looking up labels takes a lock."""
    return REQUESTS.labels(route, str(status))


@lru_cache(maxsize=64)
def counted_refusal(cause: str) -> prometheus.Counter:
    """The counter of a cause, cached."""
    return REFUSED.labels(cause)


@lru_cache(maxsize=64)
def timed_request(route: str) -> prometheus.Histogram:
    """The histogram of a route, cached."""
    return REQUEST_SECONDS.labels(route)


@lru_cache(maxsize=16)
def _timed_stage(name: str) -> prometheus.Histogram:
    return STAGE_SECONDS.labels(name)


def observe_stages(spent: Spent) -> None:
    """Record the stages of a computed request."""
    for name, took_s in spent.seconds().items():
        _timed_stage(name).observe(took_s)


def observe_scores(route: str, logits: npt.NDArray[np.float32]) -> None:
    """Record the scores of all candidates of a request."""
    for place, number in enumerate(_binned(logits)):
        if number:
            _counted_scores(route, place).inc(int(number))


def expect_scores(logits: npt.NDArray[np.float32]) -> None:
    """Set the expected distribution of scores: that of the golden requests of the served bundle."""
    shares = _binned(logits) / max(1, len(logits))
    for end, share in zip(SCORE_BINS, shares, strict=True):
        EXPECTED.labels(f"{end:g}").set(float(share))


@lru_cache(maxsize=64)
def _counted_scores(route: str, place: int) -> prometheus.Counter:
    return SCORES.labels(route, f"{SCORE_BINS[place]:g}")


def _binned(logits: npt.NDArray[np.float32]) -> npt.NDArray[np.int64]:
    """The number of scores in each bin (lower end, upper end]; scores are probabilities."""
    ends = np.log(SCORE_BINS[:-1] / (1 - SCORE_BINS[:-1]))  # compared as logits, which have the same order
    return np.bincount(np.searchsorted(ends, logits, side="left"), minlength=len(SCORE_BINS))


def start() -> None:
    """In a new worker: reset the in-flight gauges of dead workers, and create series that should start at 0."""
    for path in Path(os.environ.get(FOLDER_VARIABLE) or os.devnull).glob("gauge_live*_*.db"):
        pid = path.stem.rpartition("_")[2]
        if pid.isdigit() and not Path("/proc", pid).exists():
            multiprocess.mark_process_dead(int(pid))
    for name in STAGES:
        _timed_stage(name)
    for place in range(len(SCORE_BINS)):
        _counted_scores("/rank", place)


def exposition() -> bytes:
    """The metrics of all workers, without those of libraries."""
    if not os.environ.get(FOLDER_VARIABLE):
        return _ours(prometheus.generate_latest())
    registry = prometheus.CollectorRegistry()
    multiprocess.MultiProcessCollector(registry)
    return _ours(prometheus.generate_latest(registry))


def _ours(text: bytes) -> bytes:
    kept = (b"# HELP leitmotif_", b"# TYPE leitmotif_", b"leitmotif_")
    return b"".join(line + b"\n" for line in text.splitlines() if line.startswith(kept))
