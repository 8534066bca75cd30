"""The environment -> what a deployment sets of the service itself: how many workers, on a GPU or not, with which torch.

BentoML's `--arg` would be the place, but what is said with it when a Bento is served is thrown away (1.4.39).
"""

import os
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from contracts.errors import InputError

WORKERS, GPU, TORCH = "LEITMOTIF_WORKERS", "LEITMOTIF_GPU", "LEITMOTIF_TORCH"
MAX_WORKERS = 64
A_TORCH = re.compile(r"cpu|auto|cu[0-9]{3}")


class Deployment(NamedTuple):
    """What is decided before any worker is there."""

    workers: int = 1
    """Processes that answer. Each computes one request at a time on serve.num_threads, and holds the catalogue."""
    gpu: int = 0
    """GPUs of all workers together: a model of this size fills no two."""
    torch: str = "cpu"
    """Which build of torch an image gets: cpu, cu130 (CUDA 13.0) and such, or what fits the machine that builds it."""
    fault: str = ""
    """What is wrong with the environment: said by `check`, since an import must not fail."""

    @classmethod
    def read(cls, environment: Mapping[str, str] | None = None) -> "Deployment":
        """Read at import: BentoML's decorator takes values, in each worker as in whoever starts them."""
        told = os.environ if environment is None else environment
        try:
            workers = _number(told.get(WORKERS) or "1", WORKERS, 1, MAX_WORKERS)
            gpu = _number(told.get(GPU) or "0", GPU, 0, 1)
            torch = told.get(TORCH) or "cpu"
            if not A_TORCH.fullmatch(torch):
                raise InputError(f"{TORCH} is {torch!r}. Set it to cpu, auto, or a version of CUDA such as cu130.")
        except InputError as error:
            return cls(fault=str(error))
        return cls(workers, gpu, torch)

    def check(self) -> None:
        """Raise InputError where the environment says what cannot be."""
        if self.fault:
            raise InputError(self.fault)

    def resources(self) -> dict[str, Any]:
        """For whoever places it. BentoML itself gives the workers their GPU."""
        return {"cpu": str(self.workers)} | ({"gpu": self.gpu} if self.gpu else {})


def _number(told: str, variable: str, least: int, most: int) -> int:
    if not (told.isascii() and told.isdigit() and len(told) <= 3 and least <= int(told) <= most):
        raise InputError(f"{variable} is {told!r}. Set it to a whole number from {least} to {most}.")
    return int(told)
