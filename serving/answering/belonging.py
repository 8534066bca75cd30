"""Checks that a bundle and an online store belong together: same log, same snapshot, same history settings."""

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
    """Raise InputError if the model was trained on another log than the online store was loaded from."""
    loaded = _read_all(state / STAMP, "Remove the folder and run `make load` to fill it again.").get(LOG)
    if None in (manifest.log, loaded) or manifest.log == loaded:
        return
    raise InputError(
        f"The bundle in {bundle} was trained on another log ({manifest.source}, identity {manifest.log}) than the "
        f"online store in {state} was loaded from (identity {loaded}). `make run`, then `make load`, rebuild both from "
        "the log in params.yaml; `make promote ARGS=--force` replaces a champion of another log; to keep two logs, "
        'give each its own name: `make set ARGS="source.id=..."`.'
    )


def check_stamp(spec: FeatureSpec, store: OnlineStore, state: Path, snapshot: Path | None) -> None:
    """Raise InputError if the store was loaded from another snapshot, or with other settings than the model's."""
    if snapshot is not None and (snapshot / "snapshot.json").exists():
        wanted = _read(snapshot / "snapshot.json", "snapshot_id", "`make run` writes it again.")
        if store.snapshot_id != wanted:
            raise InputError(
                f"The online store in {state} was loaded from snapshot {store.snapshot_id[:12]}, but {snapshot} holds "
                f"snapshot {wanted[:12]}. `make load` brings the store up to date."
            )
    stored = store.settings
    differ = other_histories(spec, stored)
    if stored.get("max_length", 0) < spec.num_events_read:
        differ.append(f"max_length {stored.get('max_length')} (trained: {spec.num_events_read})")
    if (counted := other_coclicks(spec, stored)) is not None:
        raise InputError(
            f"The online store in {state} holds co-clicks of rank {counted['coclick_rank']} every "
            f"{counted['coclick_period_s']} s; the model was trained on rank {spec.coclick_rank} every "
            f"{spec.coclick_period_s:g} s. Restore them in params.yaml and `make run`, or train with these values."
        )
    if differ:
        raise InputError(
            f"The online store in {state} was loaded with other settings than the model was trained with: history."
            f"{', history.'.join(differ)}. Restore them in params.yaml and `make run`, or train with these values."
        )


def _read_all(path: Path, remedy: str) -> Mapping[str, Any]:
    try:
        return {**json.loads(path.read_text(encoding="utf-8"))}
    except (OSError, ValueError, TypeError) as error:
        raise InputError(f"{path} cannot be read: {type(error).__name__} {error}. {remedy}") from error


def _read(path: Path, key: str, remedy: str) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))[key]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} cannot be read: {type(error).__name__} {error}. {remedy}") from error
