"""What a service counts -> GET /metrics, the sums of all its workers, in the text format of Prometheus.

Few labels, each of few values: routes, statuses, stages, themes, fates. No id of a user or an item is among them.
BentoML's own metrics are turned off: they have a series for each path, and paths hold ids of users (1.4.39).
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
"""Where the workers of a service leave their figures for one another: BentoML sets it."""
CONTENT_TYPE = prometheus.CONTENT_TYPE_LATEST
REQUEST_S = (0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2, 3)
STAGE_S = (0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.1, 0.5, 1, 2)
AGES_S = (60, 600, 3600, 6 * 3600, 86_400, 7 * 86_400, 30 * 86_400, 90 * 86_400)
LENGTHS = (0, 10, 50, 100, 200, 500, 1000)
SCORE_BINS = np.array([0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.7, 0.9, 1.0])
"""Upper ends: of few requests each is filled."""

REQUESTS = prometheus.Counter("leitmotif_requests", "Requests that were answered", ("route", "status"))
REQUEST_SECONDS = prometheus.Histogram(
    "leitmotif_request_seconds", "From headers to answer", ("route",), buckets=REQUEST_S
)
IN_FLIGHT = prometheus.Gauge("leitmotif_requests_in_flight", "Requests at hand now", multiprocess_mode="livesum")
REFUSED = prometheus.Counter("leitmotif_refused", "Requests that were refused", ("cause",))
STAGE_SECONDS = prometheus.Histogram("leitmotif_stage_seconds", "Parts of a request", ("stage",), buckets=STAGE_S)
RANKINGS = prometheus.Counter("leitmotif_rankings", "Rankings, by what was known of the user", ("route", "user"))
RANKED = prometheus.Counter("leitmotif_items_answered", "Items in rankings, by whether training knew them", ("item",))
HISTORY_AGE = prometheus.Histogram(
    "leitmotif_history_age_seconds", "From a user's newest event to the ranking", buckets=AGES_S)  # fmt: skip
HISTORY_LENGTH = prometheus.Histogram("leitmotif_history_events", "Events of a ranked user", buckets=LENGTHS)
THEMES = prometheus.Counter("leitmotif_rankings_by_theme", "Rankings, by the theme the user is in", ("theme",))
SCORES = prometheus.Counter("leitmotif_candidate_scores", "Scores of candidates up to a bin's end", ("route", "up_to"))
EXPECTED = prometheus.Gauge(
    "leitmotif_expected_score_share",
    "The same of the bundle's golden requests, which the model was tested on",
    ("up_to",),
    multiprocess_mode="mostrecent",
)
EVENTS = prometheus.Counter("leitmotif_events", "Posted events, by what became of them", ("fate",))
KEPT = prometheus.Counter("leitmotif_rankings_kept", "Rankings that were given and kept as shown")
LOST = prometheus.Counter("leitmotif_rankings_lost", "Rankings that were given and could not be kept")
WITHHELD = prometheus.Counter("leitmotif_rankings_withheld", "Rankings without impression_id: none is kept now")
OVER_LIMIT = prometheus.Counter("leitmotif_rankings_over_limit", "Rankings without impression_id: too many live rows")
WITHOUT_STORE = prometheus.Counter("leitmotif_rankings_without_store", "Rankings that knew nobody: the store was away")
TAKEN = prometheus.Counter("leitmotif_bundles_taken", "Bundles that took over while the service ran")
UNLOGGED = prometheus.Counter("leitmotif_requests_unlogged", "Rankings that the request log could not take")
LATEST: Mapping[str, prometheus.Gauge] = {
    name: prometheus.Gauge(f"leitmotif_{name}", text, multiprocess_mode="mostrecent")
    for name, text in (
        ("live_rows", "Live rows that are counted in a worker's memory"),
        ("live_bytes", "Bytes that they take there, about"),
        ("live_rows_limit", "serve.max_live_rows: rankings are kept up to it"),
        ("tail_bytes", "Bytes of the store of live events"),
        ("bundle_refused", "1 where the newest bundle is not served"),
        ("worker_resident_bytes", "Memory of the worker that answered this"),
    )
}
"""Figures that are much the same in every worker: told by the one that is asked."""


@lru_cache(maxsize=256)
def counted_request(route: str, status: int) -> prometheus.Counter:
    """Looked up once: a label's series costs a lock and a dictionary each time."""
    return REQUESTS.labels(route, str(status))


@lru_cache(maxsize=64)
def timed_request(route: str) -> prometheus.Histogram:
    """As above."""
    return REQUEST_SECONDS.labels(route)


@lru_cache(maxsize=16)
def _timed_stage(name: str) -> prometheus.Histogram:
    return STAGE_SECONDS.labels(name)


def observe_stages(spent: Spent) -> None:
    """Of a request that was computed."""
    for name, took_s in spent.seconds().items():
        _timed_stage(name).observe(took_s)


def observe_scores(route: str, logits: npt.NDArray[np.float32]) -> None:
    """Of all candidates of a request, a bin at a time."""
    for place, number in enumerate(_binned(logits)):
        if number:
            _counted_scores(route, place).inc(int(number))


def expect_scores(logits: npt.NDArray[np.float32]) -> None:
    """What scores should look like: those of the bundle that is served from now on."""
    shares = _binned(logits) / max(1, len(logits))
    for end, share in zip(SCORE_BINS, shares, strict=True):
        EXPECTED.labels(f"{end:g}").set(float(share))


@lru_cache(maxsize=64)
def _counted_scores(route: str, place: int) -> prometheus.Counter:
    return SCORES.labels(route, f"{SCORE_BINS[place]:g}")


def _binned(logits: npt.NDArray[np.float32]) -> npt.NDArray[np.int64]:
    """Numbers of scores in (end before, end]; scores are probabilities."""
    ends = np.log(SCORE_BINS[:-1] / (1 - SCORE_BINS[:-1]))  # the order is that of the logits
    return np.bincount(np.searchsorted(ends, logits, side="left"), minlength=len(SCORE_BINS))


def start() -> None:
    """In a new worker: what a killed one left at hand is at hand no more, and what was never counted is 0."""
    for path in Path(os.environ.get(FOLDER_VARIABLE) or os.devnull).glob("gauge_live*_*.db"):
        told = path.stem.rpartition("_")[2]
        if told.isdigit() and not Path("/proc", told).exists():
            multiprocess.mark_process_dead(int(told))
    for name in STAGES:
        _timed_stage(name)
    for place in range(len(SCORE_BINS)):
        _counted_scores("/rank", place)


def exposition() -> bytes:
    """All workers' figures. Those of libraries are left out: nobody here asked for them."""
    if not os.environ.get(FOLDER_VARIABLE):
        return _ours(prometheus.generate_latest())
    registry = prometheus.CollectorRegistry()
    multiprocess.MultiProcessCollector(registry)
    return _ours(prometheus.generate_latest(registry))


def _ours(text: bytes) -> bytes:
    kept = (b"# HELP leitmotif_", b"# TYPE leitmotif_", b"leitmotif_")
    return b"".join(line + b"\n" for line in text.splitlines() if line.startswith(kept))
