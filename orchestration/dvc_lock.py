"""Read files that DVC may be writing at this moment: a half-written file is read again instead of failing."""

import time
from collections.abc import Callable
from typing import TypeVar

LOOK_S = 0.1
PATIENCE_S = 10.0
"""How long to try again: DVC writes dvc.lock in a fraction of a second."""

T = TypeVar("T")


class LockBusy(Exception):
    """dvc.lock or params.yaml is being written this instant, or cannot be read at all."""


def patiently(read: Callable[[], T]) -> T:
    """Read what DVC may be writing just now, again and again for PATIENCE_S. Raises LockBusy after that."""
    limit = time.monotonic() + PATIENCE_S
    while True:
        try:
            return read()
        except LockBusy:
            if time.monotonic() > limit:
                raise
            time.sleep(LOOK_S)
