"""What a click is, how seconds become microseconds, what co-clicks are compared with: said once, for all sides."""

CLICKED = 0.5
"""A label at or above is a click."""


def micros(seconds: float) -> int:
    """Seconds in whole microseconds."""
    return round(seconds * 1_000_000)


RECENT = 10
"""The newest events of a history whose clicks are compared with a candidate."""
COCLICK_SPANS = (1, 3, RECENT)
"""A candidate is compared with the last click, with the last three and with all recent ones."""


def coclick_columns(rank: int, context: bool) -> tuple[str, ...]:
    """The columns of features/coclicks.py, in order; none where rank is 0. context: the item being read is known."""
    if not rank:
        return ()
    of_spans = (f"coclick_last_{span}" for span in COCLICK_SPANS)
    return ("coclick_user", *of_spans, *(("coclick_read",) if context else ()))
