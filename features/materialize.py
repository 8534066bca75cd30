"""Histories and counters -> the snapshot that Feast serves; Feast loaded from it; proof that online equals offline."""

import logging
from dataclasses import asdict
from pathlib import Path

from contracts.publish import publish, write_json
from contracts.stage import Report, main
from features.encode import FeatureSpec
from features.freshness import measure
from features.history_reader import UserHistories
from features.load import load
from features.online import OnlineStore
from features.params import HistoryParams, MaterializeParams, StatisticsParams
from features.parity import compare_requests, compare_snapshot
from features.snapshot import write_snapshot
from features.state import state_of

log = logging.getLogger("leitmotif")


def run(data: Path, history: HistoryParams, statistics: StatisticsParams, materialize: MaterializeParams) -> Report:
    """Differences are counted and named here; the stage package refuses a snapshot that has one."""
    with publish(data, "feature_snapshot") as staging:
        snapshot = staging / "feature_snapshot"
        histories = UserHistories.open(data / "user_histories")
        settings = history.model_dump(mode="json") | {"statistics": statistics.model_dump(mode="json")}
        stamp = write_snapshot(data, histories, history.max_length, settings, snapshot)
        load(data, state_of(data), snapshot)
        store = OnlineStore.open(state_of(data))
        users, items = compare_snapshot(store, snapshot)
        log.info("read %s users and %s items back from Feast", f"{users.checked:,}", f"{items.checked:,}")
        requests, left_out = compare_requests(
            store, data, parity_spec(history, statistics), history.max_length, materialize.num_parity_requests
        )
        log.info("encoded %s requests on both sides", f"{requests.checked:,}")
        parts = {"users": users, "items": items, "requests": requests}
        parity = {
            "checked": sum(part.checked for part in parts.values()),
            "mismatches": sum(part.mismatches for part in parts.values()),
        }
        views = measure(store, data, materialize)
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


def parity_spec(history: HistoryParams, statistics: StatisticsParams) -> FeatureSpec:
    """The longest window that every request among a user's newest max_length / 2 events can be compared over."""
    return FeatureSpec.of(history, statistics, max(1, history.max_length // 2))


if __name__ == "__main__":
    main(run)
