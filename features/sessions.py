"""Events in order of (user, time) -> the session of each: the one rule, for histories offline and reads online. numpy.

A session ends where nothing happened for a while, where it has lasted too long, or where the log says so: two
neighbours that both carry the source's own session id are in one session if and only if the ids are equal.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from features.convention import micros

Int64 = npt.NDArray[np.int64]
Bool = npt.NDArray[np.bool_]

NO_SESSION = 0
"""The session_key of an event to which the source gave no session."""


@dataclass(frozen=True)
class SessionRule:
    """When a session ends, in microseconds."""

    gap_us: int  # a gap longer than this ends a session; one of exactly this length does not
    max_us: int | None  # an unstated session is cut into pieces of this length from its first event; None: never

    @classmethod
    def of(cls, gap_s: float, max_s: float | None) -> "SessionRule":
        """From the params history.session_gap_s and history.session_max_s."""
        return cls(micros(gap_s), None if max_s is None else micros(max_s))


def number_sessions(
    rule: SessionRule, first: Bool, occurred_at: Int64, session_key: Int64, started_at: Int64 | None = None
) -> tuple[Int64, Int64]:
    """(session, started_at), each [E], of E events: the session's number within its user, from 0, and its uncut start.

    first: whether an event is the first of its user. occurred_at: us, ascending within a user. session_key: a hash of
    the source's session id, NO_SESSION without. started_at: [number of users] where each one's first session began, us;
        earlier than its first event where the history was cut. None: with its first event.
    """
    if not len(occurred_at):
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    both_stated = (session_key[1:] != NO_SESSION) & (session_key[:-1] != NO_SESSION)
    opens = first.copy()
    opens[0] = True
    is_over = occurred_at[1:] - occurred_at[:-1] > rule.gap_us
    opens[1:] |= np.where(both_stated, session_key[1:] != session_key[:-1], is_over)
    starts = np.flatnonzero(opens)
    begun = occurred_at[starts]
    if started_at is not None:
        begun[first[starts]] = started_at
    number = np.cumsum(opens)
    started = begun[number - 1]
    if rule.max_us is not None:
        piece = (occurred_at - started) // rule.max_us
        opens[1:] |= ~both_stated & (piece[1:] != piece[:-1])
        number = np.cumsum(opens)
    return number - np.maximum.accumulate(np.where(first, number, 0)), started
