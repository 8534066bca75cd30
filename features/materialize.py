"""Histories and counters -> the snapshot that Feast serves; Feast loaded from it; proof that online equals offline."""

import logging
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from contracts.publish import publish, write_json
from contracts.stage import Report, main
from features.encode import FeatureSpec
from features.event_counts import USER_EVENTS, write_event_counts
from features.freshness import measure
from features.history_reader import UserHistories
from features.load import load
from features.online import OnlineStore
from features.params import HistoryParams, LabelParams, MaterializeParams, StatisticsParams, ValidateParams
from features.parity import Comparison, compare_requests, compare_snapshot, replay_from, replay_requests
from features.replay import DELAY, replaying
from features.snapshot import write_snapshot
from features.state import state_of

log = logging.getLogger("leitmotif")

REPLAY = ".replay-"
LOADED_SHARE = 4
"""One in so many parity requests is also asked of the loaded store, as of its own time."""


def run(
    data: Path,
    history: HistoryParams,
    statistics: StatisticsParams,
    materialize: MaterializeParams,
    validate: ValidateParams,
    labels: LabelParams,
) -> Report:
    """Differences are counted and named here; the stage package refuses a snapshot that has one."""
    with publish(data, "feature_snapshot") as staging:
        snapshot = staging / "feature_snapshot"
        histories = UserHistories.open(data / "user_histories")
        sections = {"statistics": statistics, "validate": validate}  # live events are judged as the log was
        told = {name: section.model_dump(mode="json") for name, section in sections.items()}
        settings = history.model_dump(mode="json") | told | {DELAY: labels.delay_s}
        stamp = write_snapshot(data, histories, history.max_length, settings, snapshot)
        write_event_counts(histories, snapshot / USER_EVENTS)
        load(data, state_of(data), snapshot)
        parts, left_out, views = _prove(data, snapshot, stamp, parity_spec(history, statistics), materialize)
        parity = {
            "checked": sum(part.checked for part in parts.values()),
            "mismatches": sum(part.mismatches for part in parts.values()),
        }
        write_json(snapshot / "parity.json", parity | {name: asdict(part) for name, part in parts.items()})
    return {
        "num_users": stamp["num_users"],
        "num_items": stamp["num_items"],
        "snapshot_id": stamp["snapshot_id"],
        "log_end": stamp["log_end"],
        "views": views,
        "parity": parity,
        "parity_by_part": {name: {"checked": p.checked, "mismatches": p.mismatches} for name, p in parts.items()},
        "parity_requests_left_out": left_out,
        "first_mismatches": [named for part in parts.values() for named in part.first],
    }


def _prove(
    data: Path, snapshot: Path, stamp: Mapping[str, Any], spec: FeatureSpec, materialize: MaterializeParams
) -> tuple[dict[str, Comparison], int, dict[str, dict[str, Any]]]:
    """Read back what was loaded, and replay the latest requests live.

    Returns comparisons, requests that were left out of them, and the loaded views' freshness.
    """
    folder = Path(tempfile.mkdtemp(prefix=f"{REPLAY}{os.getpid()}-", dir=state_of(data).parent))
    try:
        store = OnlineStore.open(state_of(data), tail_of=folder / "nothing" / "feast")  # as loaded, nothing live
        users, items = compare_snapshot(store, snapshot)
        log.info("read %s users and %s items back from Feast", f"{users.checked:,}", f"{items.checked:,}")
        number = materialize.num_parity_requests
        requests, left_out = compare_requests(store, data, spec, stamp["max_length"], -(-number // LOADED_SHARE))
        views = measure(store, data, materialize)
        store.tail.close()
        from_us = replay_from(data, materialize.replay_share)
        with replaying(data, stamp, from_us, folder / folder.name.strip(".")) as replay:
            replayed, more = replay_requests(replay, data, spec, from_us, number)
            log.info("replayed %s requests among %s live events", f"{replayed.checked:,}", f"{replay.fed:,}")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return {"users": users, "items": items, "requests": requests, "replay": replayed}, left_out + more, views


def parity_spec(history: HistoryParams, statistics: StatisticsParams) -> FeatureSpec:
    """The longest window that every request among a user's newest max_length / 2 events can be compared over."""
    return FeatureSpec.of(history, statistics, max(1, history.max_length // 2))


if __name__ == "__main__":
    main(run)
