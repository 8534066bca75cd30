"""Events in order of (user, time) -> the session of each: one rule for offline histories and online reads. numpy.

A session ends at a gap without events, at the end of a cell of a fixed time grid, or where the log says so: two
neighbouring events with session ids of the source are in one session if and only if the ids are equal.
All of this is decided by two neighbouring events. So the newest events of a user have the same session boundaries as
in the whole history, whatever was cut off before them; only differences of session numbers have a meaning.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from features.terms.convention import micros

Int64 = npt.NDArray[np.int64]
Bool = npt.NDArray[np.bool_]

NO_SESSION = 0
"""The session_key of an event to which the source gave no session."""


@dataclass(frozen=True)
class SessionRule:
    """When a session ends, in microseconds."""

    gap_us: int  # only a longer gap ends a session
    max_us: int | None  # sessions without a source id end at multiples of this since 1970; None: never

    @classmethod
    def of(cls, gap_s: float, max_s: float | None) -> "SessionRule":
        """From the params history.session_gap_s and history.session_max_s."""
        return cls(micros(gap_s), None if max_s is None else micros(max_s))


def number_sessions(rule: SessionRule, first: Bool, occurred_at: Int64, session_key: Int64) -> Int64:
    """[E] of E events: the session's number within its user, from 0 at the user's first event here.

    first: whether an event is the first of its user. occurred_at: us, ascending within a user. session_key: a hash of
    the source's session id, NO_SESSION without.
    """
    if not len(occurred_at):
        return np.zeros(0, np.int64)
    both_stated = (session_key[1:] != NO_SESSION) & (session_key[:-1] != NO_SESSION)
    is_over = occurred_at[1:] - occurred_at[:-1] > rule.gap_us
    if rule.max_us is not None:
        cell = occurred_at // rule.max_us
        is_over |= cell[1:] != cell[:-1]
    opens = first.copy()
    opens[0] = True
    opens[1:] |= np.where(both_stated, session_key[1:] != session_key[:-1], is_over)
    number = np.cumsum(opens)
    return number - np.maximum.accumulate(np.where(first, number, 0))
