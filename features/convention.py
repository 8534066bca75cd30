"""What a click is and how seconds become microseconds: said once, for tables and tensors alike."""

CLICKED = 0.5
"""A label at or above is a click."""


def micros(seconds: float) -> int:
    """Seconds in whole microseconds."""
    return round(seconds * 1_000_000)
