"""Processes that torchrun started on one or several nodes -> one run: same inputs in all, one error if any is lost.

The first process (rank 0) writes checkpoints, curves and outputs to its own disk; the nodes need no shared disk.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TypeVar

import torch
import torch.distributed

from contracts.errors import CheckFailed, InputError
from training.fitting.interface import CHOSEN, choose_interface
from training.fitting.trainer import num_processes
from training.model.params import TrainParams
from training.model.processes import gathered

T = TypeVar("T")

PATIENCE, DEFAULT_S = "LEITMOTIF_LOST_S", 600
"""Environment variable: how many seconds a process waits for another that does not answer, be it that it hangs or that
the network is down. An ended one is noticed at once. The outputs do not depend on it, so it is no param."""
NAMED = 3


@dataclass(frozen=True)
class Ranks:
    """This process's rank in the run. All processes must make the collective calls below, in the same order."""

    rank: int = 0
    world: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this process writes the outputs of the run."""
        return self.rank == 0

    def from_first(self, value: T) -> T:
        """The value of the first process, in every process."""
        if self.world == 1:
            return value
        values = [value]
        torch.distributed.broadcast_object_list(values)
        return values[0]

    def same_inputs(self, digests: Mapping[str, str]) -> None:
        """Raise InputError in every process if one has other params, data or code than the first."""
        every = gathered(digests)
        first = every[0]
        for rank, other in enumerate(every):
            if different := sorted(name for name in first.keys() | other.keys() if first.get(name) != other.get(name)):
                more = f" and {len(different) - NAMED} more" if len(different) > NAMED else ""
                raise InputError(
                    f"Process {rank} of {self.world} has other inputs than process 0: {', '.join(different[:NAMED])}"
                    f"{more}. Bring its node to the same commit, params.yaml and data (dvc pull), then start all again."
                )

    def file_from_first(self, path: Path | None, copy: Path) -> Path | None:
        """The first process's file, copied to `copy` in the others; None if it has none."""
        content = self.from_first(path.read_bytes() if self.is_first and path is not None else None)
        if self.is_first or content is None:
            return path if self.is_first else None
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(content)
        return copy


ALONE = Ranks()


@contextmanager
def joined(train: TrainParams) -> Iterator[Ranks]:
    """Join the run that torchrun started; ALONE if it did not. Raises InputError if the number of processes differs
    from the params, or if another process is lost."""
    world, rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
    _check_world(train, world)
    if world == 1:
        yield ALONE
        return
    try:
        if not torch.distributed.is_initialized():
            _meet(train, rank, world)
        yield Ranks(rank, world)
        torch.distributed.destroy_process_group()
    except (InputError, CheckFailed, MemoryError, torch.OutOfMemoryError):
        raise
    except RuntimeError as error:
        if not _is_loss(error):
            raise
        raise InputError(
            f"Process {rank} of {world} lost another process of the training and cannot go on "
            f"({_first_line(error)}). Start all {world} again: they resume from the last checkpoint "
            "(train.checkpoint_s). The log of the lost process says why it ended, unless it was killed."
        ) from error


def _meet(train: TrainParams, rank: int, world: int) -> None:
    """Connect with all other processes. Raises InputError if this one cannot."""
    patience = timedelta(seconds=_patience_s())
    with_gpu = train.accelerator != "cpu" and torch.cuda.is_available()
    if with_gpu:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    choose_interface()
    try:
        torch.distributed.init_process_group("cpu:gloo,cuda:nccl" if with_gpu else "gloo", timeout=patience)
    except RuntimeError as error:
        if not _is_loss(error):
            raise
        raise InputError(
            f"Process {rank} of {world} cannot connect to all others ({_first_line(error)}). Each node must reach each "
            f"other one on any port, through the interface {os.environ.get(CHOSEN, 'of its own name')} ({CHOSEN} sets "
            "another), and all must be started within "
            f"{patience.total_seconds():g} s ({PATIENCE})."
        ) from error


def _patience_s() -> int:
    text = os.environ.get(PATIENCE, "").strip() or str(DEFAULT_S)
    if not text.isdecimal() or not int(text):
        raise InputError(
            f"{PATIENCE} is {text!r}, not a whole number of seconds of at least 1. Correct it or unset it."
        )
    return int(text)


def _check_world(train: TrainParams, world: int) -> None:
    expected = num_processes(train)
    if train.num_nodes > 1 and world == 1:
        raise InputError(
            f"train.num_nodes is {train.num_nodes}, but this process was started alone. On every node: torchrun "
            f"--nnodes {train.num_nodes} --nproc-per-node {train.devices} --node-rank <0 to {train.num_nodes - 1}> "
            "--master-addr <node 0> --master-port 29500 -m training.train; then, on node 0, dvc commit train."
        )
    if world not in (1, expected):
        raise InputError(
            f"torchrun started {world} processes, but train.devices = {train.devices} and train.num_nodes = "
            f"{train.num_nodes} require {expected}. Set --nproc-per-node to train.devices and --nnodes to "
            "train.num_nodes."
        )


SIGNS_OF_LOSS: Sequence[str] = (
    *("gloo", "connection closed", "connection reset", "broken pipe", "socket", "timed out"),
    *("pair closure", "no route to host", "unreachable"),  # of a network that is down
)


def _is_loss(error: RuntimeError) -> bool:
    """Whether another process was lost, which gloo reports as a plain RuntimeError."""
    message = str(error).lower()
    return isinstance(error, torch.distributed.DistError) or any(sign in message for sign in SIGNS_OF_LOSS)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
