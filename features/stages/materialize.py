"""Histories and counters -> the snapshot; Feast's online store loaded from it; a proof that online equals offline."""

import logging
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from contracts.files import scratch
from contracts.publish import publish, write_json
from contracts.stage import Report, main
from features.encoding.encode import FeatureSpec
from features.engine.engine import HERE, running
from features.live.places import state_of
from features.online.counter_pieces import split_by_user
from features.online.counters_by_user import UserCounters
from features.online.fill import Counted
from features.online.freshness import measure
from features.online.load import load
from features.online.offline_log import OfflineLog
from features.online.parity import (
    Parity,
    compare_requests,
    compare_snapshot,
    replay_from,
    replay_requests,
)
from features.online.replay import DELAY, replaying
from features.online.snapshot import write_snapshot
from features.online.store import OnlineStore
from features.tables.histories import UserHistories
from features.terms.params import (
    EngineParams,
    HistoryParams,
    LabelParams,
    MaterializeParams,
    StatisticsParams,
    ValidateParams,
)

log = logging.getLogger("leitmotif")

REPLAY = "replay"
LOADED_SHARE = 4
"""One in LOADED_SHARE parity requests is also read from the loaded store, as of its own time."""


def run(
    data: Path,
    history: HistoryParams,
    statistics: StatisticsParams,
    materialize: MaterializeParams,
    validate: ValidateParams,
    labels: LabelParams,
    engine: EngineParams = HERE,
) -> Report:
    """Differences are only counted and named here; the stage `package` refuses a snapshot with any.

    engine: writes what the snapshot has of users, and loads a Redis; the proof runs in this process.
    """
    with publish(data, "feature_snapshot") as staging:
        snapshot = staging / "feature_snapshot"
        histories = UserHistories.open(data / "user_histories")
        sections = {"statistics": statistics, "validate": validate}  # live events are judged as the log was
        told = {name: section.model_dump(mode="json") for name, section in sections.items()}
        settings = history.model_dump(mode="json") | told | {DELAY: labels.delay_s}
        with running(engine, staging) as runner:
            of_users = split_by_user(runner, data, histories, staging / "counters")
            stamp = write_snapshot(data, histories, history.max_length, settings, snapshot, runner, of_users)
        offline = OfflineLog.open(data)
        back = ReadBack(materialize.num_read_back, stamp["snapshot_id"])
        counted = Counted(offline.counters, offline.item_ids, offline.histories.user_ids.to_pylist())
        load(data, state_of(data), snapshot, counted, back.tell, engine)
        spec = parity_spec(history, statistics)
        parts, left_out, views = _prove(data, snapshot, stamp, spec, materialize, offline, of_users, back)
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
        "read_back": back.said,
        "first_mismatches": [named for part in parts.values() for named in part.first],
    }


class ReadBack:
    """Samples the users and items to read back from Feast: as many of those just written as of the others."""

    def __init__(self, number: int | None, seed: str) -> None:
        """number: of each; None reads all. seed: the snapshot's id, so that each snapshot has its own sample."""
        self._number, self._rng = number, np.random.default_rng(list(seed.encode()))
        self._written: dict[str, list[pa.Array | pa.ChunkedArray]] = {}
        self.said: dict[str, dict[str, int]] = {}

    def tell(self, view: str, ids: pa.Array | pa.ChunkedArray) -> None:
        """Note that these rows of a view were written."""
        self._written.setdefault(view, []).append(ids)

    def sample(self, view: str, ids: pa.ChunkedArray) -> npt.NDArray[np.bool_]:
        """Which of a view's ids to read back, as a mask."""
        chunks = [chunk for part in self._written.get(view, []) for chunk in getattr(part, "chunks", [part])]
        known = pa.chunked_array(chunks, pa.string())
        is_new = pc.call_function("is_in", [ids], pc.SetLookupOptions(value_set=known)).to_numpy()
        chosen = np.zeros(len(ids), bool)
        for group in (np.flatnonzero(is_new), np.flatnonzero(~is_new)):
            few = self._number is None or len(group) <= self._number
            chosen[group if few else self._rng.choice(group, self._number, replace=False)] = True
        self.said[view] = {"rows": len(ids), "written": int(is_new.sum()), "read_back": int(chosen.sum())}
        return chosen


def _prove(
    data: Path,
    snapshot: Path,
    stamp: Mapping[str, Any],
    spec: FeatureSpec,
    materialize: MaterializeParams,
    offline: OfflineLog,
    of_users: UserCounters,
    back: ReadBack,
) -> tuple[dict[str, Parity], int, dict[str, dict[str, Any]]]:
    """Read the loaded store back, and replay the latest requests as live traffic; both are compared with offline.

    Returns the comparisons, the number of requests that could not be compared, and the freshness of the loaded views.
    """
    with scratch(state_of(data).parent / REPLAY) as folder:
        store = OnlineStore.open(state_of(data), tail_of=folder / "nothing" / "feast")  # as loaded, without live events
        users, counted, items = compare_snapshot(store, snapshot, back.sample)
        for view, counts in back.said.items():
            log.info("%s: read %s of %s rows back from Feast (%s were written)", view, *_counts(counts))
        number = materialize.num_parity_requests
        requests, left_out = compare_requests(
            store, data, spec, stamp["max_length"], -(-number // LOADED_SHARE), offline
        )
        views = measure(store, data, materialize)
        store.tail.close()
        from_us = replay_from(data, materialize.replay_share, offline)
        fed = folder / folder.name.strip(".")
        with replaying(data, stamp, from_us, fed, offline.counters, of_users) as replay:
            replayed, more = replay_requests(replay, data, spec, from_us, number, offline)
            log.info("replayed %s requests among %s live events", f"{replayed.checked:,}", f"{replay.fed:,}")
    parts = {"users": users, "counts": counted, "items": items, "requests": requests, "replay": replayed}
    return parts, left_out + more, views


def _counts(counts: Mapping[str, int]) -> list[str]:
    return [f"{counts[name]:,}" for name in ("read_back", "rows", "written")]


def parity_spec(history: HistoryParams, statistics: StatisticsParams) -> FeatureSpec:
    """A spec with the longest history over which every request in a user's newest max_length / 2 events can be
    compared."""
    return FeatureSpec.of(history, statistics, max(1, history.max_length // 2))


if __name__ == "__main__":
    main(run)
