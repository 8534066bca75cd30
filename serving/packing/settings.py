"""The environment -> settings of a deployment: number of workers, GPU, build of torch.

BentoML's `--arg` would be the place for them, but it is ignored when a Bento is served (1.4.39).
"""

import os
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from contracts.errors import InputError

WORKERS, GPU, TORCH = "LEITMOTIF_WORKERS", "LEITMOTIF_GPU", "LEITMOTIF_TORCH"
IN_FLIGHT = "LEITMOTIF_IN_FLIGHT"
MAX_WORKERS, MAX_IN_FLIGHT = 64, 512
OF_INDEX = "index"
A_TORCH = re.compile(rf"cpu|auto|cu[0-9]{{3}}|{OF_INDEX}")


class Deployment(NamedTuple):
    """Settings that apply before any worker is started."""

    workers: int = 1
    """Number of processes. Each computes one request at a time with serve.num_threads and has its own catalogue."""
    gpu: int = 0
    """Number of GPUs of all workers together, 0 or 1."""
    torch: str = "cpu"
    """Build of torch in the image: cpu, a CUDA version such as cu130, auto (as fits the build machine), or index."""
    in_flight: int = 16
    """Number of requests in progress at once in a worker: one computes, the others wait; more are refused."""
    fault: str = ""
    """The error in the environment; raised by `check`, since an import must not fail."""

    @classmethod
    def read(cls, environment: Mapping[str, str] | None = None) -> "Deployment":
        """The environment's settings. Called at import, in workers and their parent, for BentoML's decorator."""
        variables = os.environ if environment is None else environment
        try:
            workers = _number(variables.get(WORKERS) or "1", WORKERS, 1, MAX_WORKERS)
            gpu = _number(variables.get(GPU) or "0", GPU, 0, 1)
            in_flight = _number(variables.get(IN_FLIGHT) or "16", IN_FLIGHT, 1, MAX_IN_FLIGHT)
            torch = variables.get(TORCH) or "cpu"
            if not A_TORCH.fullmatch(torch):
                raise InputError(f"{TORCH} is {torch!r}. Set it to cpu, auto, index, or a CUDA version: cu130.")
        except InputError as error:
            return cls(fault=str(error))
        return cls(workers, gpu, torch, in_flight)

    def check(self) -> None:
        """Raise InputError if the environment is invalid."""
        if self.fault:
            raise InputError(self.fault)

    def resources(self) -> dict[str, Any]:
        """Resource requests for a scheduler. BentoML assigns the GPU to workers itself."""
        return {"cpu": str(self.workers)} | ({"gpu": self.gpu} if self.gpu else {})


def _number(text: str, variable: str, least: int, most: int) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 3 and least <= int(text) <= most):
        raise InputError(f"{variable} is {text!r}. Set it to a whole number from {least} to {most}.")
    return int(text)
