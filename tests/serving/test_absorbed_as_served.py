"""What rankings read of live events is what they read of the log that has them: nothing changes by being absorbed."""

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from contracts.params import load_params
from features.encoding.asked import NO_CONTEXT
from features.live.absorb import absorb
from features.live.places import state_of
from features.online.store import OnlineStore
from features.sealed.files import live_of
from orchestration.configure import configure
from serving.answering.feedback import intake_of, keep, show, take
from serving.answering.requests import EventsRequest, to_iso
from tests.clones import ROOT
from tests.one_process import run_stages

STAGES = tuple(f"features.stages.{name}" for name in ("ingest", "validate", "histories", "statistics", "materialize"))
COLUMNS = {"user_id": "user", "item_id": "item", "occurred_at": "at", "label": "click", "impression_id": "request"}
USERS, ITEMS = [*(f"u{number}" for number in range(6)), "new"], [*(f"i{number}" for number in range(12)), "fresh"]
OFFSETS_S = (-3600, 0, 61, 301, 3600, 3 * 86_400)
"""Times of rankings after the newest event, s: as of some of them lags hide it."""
SETTINGS: list[dict[str, Any]] = [
    # events are hourly, so that none is between what is kept before and after the log's end moves
    {"history.retention_s": 41_400.0, "history.session_gap_s": 600.0, "history.session_max_s": None},
    {"history.labels": "all", "statistics.bucket_s": 600.0},
]


@pytest.fixture(params=SETTINGS, ids=["clicks alone, retention", "all labels, buckets"])
def data(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """data/<source> of a small table, loaded."""
    shutil.copy(ROOT / "params.yaml", tmp_path)
    shutil.copytree(ROOT / "presets", tmp_path / "presets")
    random = np.random.default_rng(7)
    lines = ["user,item,at,click,request"]
    for number in range(90):
        user, at = f"u{random.integers(6)}", f"2024-01-{1 + number // 24:02d}T{number % 24:02d}:00:00Z"
        lines += [f"{user},i{item},{at},{int(n == 0)},r{number}" for n, item in enumerate(random.permutation(12)[:3])]
    (tmp_path / "log.csv").write_text("\n".join([*lines, ""]))
    columns = {f"source.columns.{ours}": theirs for ours, theirs in COLUMNS.items()}
    of_log = {"source.name": "table", "source.path": str(tmp_path / "log.csv"), "source.time_unit": "iso"}
    configure(of_log | columns | {"source.id": "log"} | request.param, tmp_path / "params.yaml")
    run_stages(tmp_path, STAGES)
    return tmp_path / "data" / "log"


@contextlib.contextmanager
def opened(data: Path) -> Iterator[OnlineStore]:
    store = OnlineStore.open(state_of(data))
    store.follow_log()
    yield store
    store.tail.close()


def live(store: OnlineStore, limits: Any, sessions: list[str | None]) -> None:
    """Rankings, clicks on them and on others', events of a caller's own: late, early, again, with other content."""
    random, intake = np.random.default_rng(3), intake_of(store)
    shown: list[tuple[str, str]] = []
    for number in range(150):
        now, user = store.clock.now(), str(random.choice(USERS))
        if number % 3 == 0:
            told = show(intake, user, [*map(str, random.permutation(ITEMS)[:4])], now, NO_CONTEXT)
            assert told is not None
            keep(store, told)
            shown.append((user, told.impression_id))
            continue
        event: dict[str, Any] = {"user_id": user, "item_id": str(random.choice(ITEMS))}
        event |= {"label": float(random.choice([1, 1, 0])), "session_id": sessions[int(random.integers(len(sessions)))]}
        if random.random() < 0.5:
            user, name = shown[int(random.integers(len(shown)))]
            event |= {"user_id": user, "impression_id": name}
        elif random.random() < 0.6:
            seconds = int(random.choice([-2 * 86_400, -3600, -5, 299]))
            event |= {"occurred_at": to_iso(now + seconds * 1_000_000)}
            event |= {"event_id": f"{user}-{random.integers(9)}"} if random.random() < 0.5 else {}
        take(store, intake, limits, EventsRequest.model_validate({"events": [event]}), now)


def read(store: OnlineStore, newest: int) -> dict[str, Any]:
    """Of every user and time: the history (sessions from its end), and all counts that features are made of."""
    found: dict[str, Any] = {}
    for user in USERS:
        history, counted = store.read(user)
        key, counters = store.counters_of(user, counted)
        items = store.item_keys(ITEMS)
        for offset_s in OFFSETS_S:
            at = newest + offset_s * 1_000_000
            counts = [
                counters.user_counters.read([key], at),
                counters.item_counters.read(items, at),
                counters.user_item_counters.read(counters.pair_key(key, items), at),
            ]
            events: list[list[Any]] = []
            if history is not None and (end := int(np.searchsorted(history.occurred_at, at))):
                sessions = history.session[:end] - history.session[end - 1]
                each = (history.item_ids[:end], history.occurred_at[:end], history.label[:end], sessions)
                events = [np.asarray(values).tolist() for values in each]
            found[f"{user} {offset_s}"] = [np.array(count).tolist() for count in counts], events
    return found


def test_a_ranking_reads_the_same_before_and_after_live_events_are_absorbed(data: Path) -> None:
    root = data.parents[1]
    sections = load_params(root / "params.yaml")
    # of a log of all labels a show of ours has no session online, and after the run that of its click
    sessions: list[str | None] = [None, "s1", "s2"] if sections["history"].labels == "clicked" else [None]
    with opened(data) as store:
        live(store, sections["serve"], sessions)
        newest = store.log_end
        before = read(store, newest)
        made = absorb(store.tail, live_of(data))
        assert sum(made.values()) == store.live.num_events > 150
    run_stages(root, STAGES)
    with opened(data) as store:
        assert store.live.num_events == 0
        after = read(store, newest)
    assert {name: after[name] for name in before if after[name] != before[name]} == {}
