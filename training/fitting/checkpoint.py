"""Checkpoints of an interrupted training -> where the next run resumes; checkpoints of other inputs are removed.

Each model has a folder in .state/<id>/train: resume.ckpt (weights, optimizer, position in the epoch, random state),
best.ckpt (the best weights so far) and, once training has ended, fitted.json. key.json names the inputs of the run.
"""

import json
import logging
import math
import shutil
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, ModelCheckpoint

from contracts.files import hash_file
from contracts.publish import write_json
from training.fitting.learning import CHOICE
from training.fitting.record import Measured
from training.model.build import Model

log = logging.getLogger("leitmotif")

KEY = "key.json"
RESUME = "resume"
BEST = "best"
FITTED = "fitted.json"
OF_THE_MODEL = "model."
NOT_LEARNT = ("train.checkpoint_s",)
"""Params that do not change the weights: a run resumes even if they differ."""
NAMED = 3


class ResumePoint(ModelCheckpoint):
    """Writes resume.ckpt at intervals within an epoch.

    Not just before a validation or the end of an epoch, which Lightning would then skip on resuming.
    """

    def __init__(self, folder: Path, every_s: float) -> None:
        super().__init__(
            dirpath=str(folder),
            filename=RESUME,
            train_time_interval=timedelta(seconds=every_s),
            enable_version_counter=False,
        )

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save, unless a validation or the end of the epoch follows."""
        steps = int(trainer.num_training_batches)
        validates = trainer.enable_validation and (batch_idx + 1) % int(trainer.val_check_batch or steps) == 0
        if batch_idx + 1 < steps and not validates:
            super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)


def best_weights(folder: Path) -> ModelCheckpoint:
    """The callback that writes best.ckpt: on disk, since a copy in memory would hold every embedding table twice."""
    return ModelCheckpoint(
        dirpath=str(folder),
        filename=BEST,
        monitor=CHOICE,
        mode="max",
        save_weights_only=True,
        save_on_train_epoch_end=False,
        enable_version_counter=False,
    )


class FittedFile(Callback):
    """Writes fitted.json with the record when training ends, so that the next run does not train this model again.

    Without validation requests the last weights count as the best.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """All processes call save_checkpoint; only the first writes fitted.json."""
        if not trainer.enable_validation:
            trainer.save_checkpoint(self.folder / f"{BEST}.ckpt", weights_only=True)
        if trainer.is_global_zero:
            rows = [asdict(measured) for measured in pl_module.record]  # type: ignore[union-attr]
            (self.folder / RESUME).with_suffix(".ckpt").unlink(missing_ok=True)
            write_json(self.folder / FITTED, {"record": rows})


def read_fitted(folder: Path) -> list[Measured] | None:
    """The record of a model whose training has ended; None if it has not."""
    if not (folder / FITTED).is_file() or not _is_whole(folder / f"{BEST}.ckpt"):
        return None
    rows = json.loads((folder / FITTED).read_text(encoding="utf-8"))["record"]
    measured = [{name: math.nan if value is None else value for name, value in row.items()} for row in rows]
    return [Measured(**row) for row in measured]  # type: ignore[arg-type]


def resume_point(name: str, folder: Path) -> Path | None:
    """The path of resume.ckpt if training can resume from it; otherwise the folder is emptied and the log says why."""
    path, best = folder / f"{RESUME}.ckpt", folder / f"{BEST}.ckpt"
    if not path.exists():
        broken = None
    elif not _is_whole(path):
        broken = path
    else:
        broken = best if best.exists() and not _is_whole(best) else None
        if broken is None:
            return path
    if broken is not None:
        log.warning("%s is damaged and was removed: the training of %s starts again from step 0.", broken, name)
    shutil.rmtree(folder, ignore_errors=True)
    return None


def step_of(checkpoint: Path | None) -> int:
    """Optimizer steps made when the checkpoint was written; 0 without a checkpoint."""
    if checkpoint is None:
        return 0
    return int(torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=True)["global_step"])


def load_best(model: Model, folder: Path) -> None:
    """Load the weights of best.ckpt into the model."""
    weights = torch.load(folder / f"{BEST}.ckpt", map_location="cpu", weights_only=True, mmap=True)["state_dict"]
    model.load_state_dict(
        {name.removeprefix(OF_THE_MODEL): value for name, value in weights.items() if name.startswith(OF_THE_MODEL)}
    )


def open_state(folder: Path, params: Mapping[str, Any], data: Path, code: Path) -> None:
    """Empty the folder if a run with other params, data or code wrote it, and log what differs.

    params: the sections that training reads. data: data/<id>. code: the repository, whose training/ is hashed.
    """
    key = inputs_of(params, data, code)
    try:
        before = json.loads((folder / KEY).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        before = None
    if before is not None and (changes := list(_differences(before, key))):
        more = f" and {len(changes) - NAMED} more" if len(changes) > NAMED else ""
        log.info(
            "%s held checkpoints of a run with other inputs (%s%s): they were removed, training starts from step 0.",
            folder, ", ".join(changes[:NAMED]), more,
        )  # fmt: skip
        before = None
    if before is None:
        shutil.rmtree(folder, ignore_errors=True)
        write_json(folder / KEY, key)


def inputs_of(params: Mapping[str, Any], data: Path, code: Path) -> dict[str, dict[str, Any]]:
    """Everything that a training's result depends on, by kind and name; files as digests."""
    of_files = {"data": _digests(data, DATA), "code": _digests(code, CODE)}
    return {"params": _flat(params), **of_files, "torch": {"version": torch.__version__}}


DATA = ("user_histories/*", "impressions/*", "*_counters/*", "coclicks/*")
CODE = ("training/**/*.py", "features/encoding/*.py", "features/terms/*.py")


def _digests(root: Path, patterns: Sequence[str]) -> dict[str, str]:
    files = sorted({path for pattern in patterns for path in root.glob(pattern) if path.is_file()})
    return {path.relative_to(root).as_posix(): hash_file(path) for path in files}


def _flat(params: Mapping[str, Any]) -> dict[str, Any]:
    flat = {}
    for section, value in params.items():
        fields = value.model_dump(mode="json") if hasattr(value, "model_dump") else None
        flat |= {section: value} if fields is None else {f"{section}.{name}": each for name, each in fields.items()}
    return {name: each for name, each in flat.items() if name not in NOT_LEARNT}


def _differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    """The keys that differ: params first, each with both values."""
    for part, values in now.items():
        old = before.get(part, {})
        for name in sorted(values.keys() | old.keys()):
            if old.get(name) != values.get(name):
                yield f"{name} {old.get(name)} -> {values.get(name)}" if part in ("params", "torch") else f"{name}"


def _is_whole(path: Path) -> bool:
    """Whether the file is a checkpoint and every part matches its stored checksum."""
    try:
        with zipfile.ZipFile(path) as parts:
            return parts.testzip() is None
    except (OSError, zipfile.BadZipFile, EOFError, ValueError, NotImplementedError):
        return False
