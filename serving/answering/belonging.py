"""A bundle and an online store -> whether they belong together: one log, one snapshot, one way of making histories."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from contracts.errors import InputError
from features.encoding.encode import FeatureSpec
from features.live.places import LOG, STAMP
from features.online.store import OnlineStore
from serving.bundle.manifest import Manifest
from serving.bundle.stored import other_coclicks, other_histories


def check_log(manifest: Manifest, bundle: Path, state: Path) -> None:
    """Raises InputError if the bundle's model was trained on another log than the store's."""
    loaded = _read_all(state / STAMP, "Remove the folder and `make load` fills it again.").get(LOG)
    if None in (manifest.log, loaded) or manifest.log == loaded:
        return
    raise InputError(
        f"The bundle in {bundle} was trained on another log ({manifest.source}, identity {manifest.log}) than the "
        f"online store in {state} was loaded from (identity {loaded}). `make run` and `make load` make both of the log "
        "that params.yaml names; a champion of another log is replaced by `make promote ARGS=--force`; two logs that "
        'are both to be kept need a name each: `make set ARGS="source.id=..."`.'
    )


def check_stamp(spec: FeatureSpec, store: OnlineStore, state: Path, snapshot: Path | None) -> None:
    """Raise InputError where the store holds another snapshot, or other histories than the model was trained on."""
    if snapshot is not None and (snapshot / "snapshot.json").exists():
        wanted = _read(snapshot / "snapshot.json", "snapshot_id", "`make run` makes it again.")
        if store.snapshot_id != wanted:
            raise InputError(
                f"The online store in {state} was loaded from snapshot {store.snapshot_id[:12]}, and {snapshot} holds "
                f"{wanted[:12]}. `make load` brings it up to date."
            )
    stored = _read(state / STAMP, "settings", "Remove the folder and `make load` fills it again.")
    differ = other_histories(spec, stored)
    if stored.get("max_length", 0) < spec.num_events_read:
        differ.append(f"max_length {stored.get('max_length')} (trained: {spec.num_events_read})")
    if (counted := other_coclicks(spec, stored)) is not None:
        raise InputError(
            f"The online store in {state} holds co-clicks of rank {counted['coclick_rank']} every "
            f"{counted['coclick_period_s']} s; the model was trained on rank {spec.coclick_rank} every "
            f"{spec.coclick_period_s:g} s. Set params.yaml's statistics back and `make run`, or train on these."
        )
    if differ:
        raise InputError(
            f"The online store in {state} holds other histories than the model was trained on: history."
            f"{', history.'.join(differ)}. Set params.yaml back and `make run`, or train on these."
        )


def _read_all(path: Path, again: str) -> Mapping[str, Any]:
    try:
        return {**json.loads(path.read_text(encoding="utf-8"))}
    except (OSError, ValueError, TypeError) as error:
        raise InputError(f"{path} cannot be read: {type(error).__name__} {error}. {again}") from error


def _read(path: Path, key: str, again: str) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))[key]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} cannot be read: {type(error).__name__} {error}. {again}") from error
