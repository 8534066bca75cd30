"""Requests that say nothing of themselves."""

from typing import Any

import numpy as np

from contracts.schema import PADDING_INDEX


def no_contexts(number: int) -> dict[str, Any]:
    """Requests' columns of what a request says of itself, empty."""
    return {
        "reading": np.full(number, PADDING_INDEX),
        "is_subscriber": np.zeros(number, bool),
        "device": np.full(number, ""),
    }
