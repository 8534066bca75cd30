"""Requests that say nothing of themselves, nor of when anything was known."""

from typing import Any

import numpy as np

from contracts.schema import PADDING_INDEX


def no_contexts(number: int) -> dict[str, Any]:
    """Requests' columns of what a request says of itself and of when it was known, empty."""
    return {
        "known_at": np.zeros(number, np.int64),
        "reading": np.full(number, PADDING_INDEX),
        "is_subscriber": np.zeros(number, bool),
        "device": np.full(number, ""),
    }
