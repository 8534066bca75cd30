"""Users -> their requests: users join, return in sessions of one theme each, and leave for good, at a steady rate.

Axes: U users, A of them in a session, T themes, R requests.
"""

import math
from dataclasses import dataclass

import numpy as np

from features.sources.simulator_world import Users
from features.terms.params import SimulatorParams

GAP_LOG_MEAN, GAP_LOG_SPREAD, GAP_MIN_S = 9.5, 1.0, 3600.0
HOP_SHARE, HOP_MEAN_S = 0.25, 60.0
MORE_REQUESTS = 0.2  # a session has 1 + Geometric(this) requests
REQUEST_MIN_S, REQUEST_MEAN_S = 5.0, 40.0
DAY_S = 86_400
BURN_IN_S = 7_200  # simulated before the log, so that some users are in the middle of a session when it begins
LONG_MEAN_S = math.exp(GAP_LOG_MEAN + GAP_LOG_SPREAD**2 / 2)  # of the lognormal part
CYCLE_S = (  # mean time from the start of a session to the start of the next
    HOP_SHARE * HOP_MEAN_S
    + (1 - HOP_SHARE) * (LONG_MEAN_S + GAP_MIN_S)
    + (REQUEST_MIN_S + REQUEST_MEAN_S) / MORE_REQUESTS
)


@dataclass(frozen=True)
class Visits:
    """Arrays over R, sorted by (time, user)."""

    user: np.ndarray
    session: np.ndarray  # number of the user's session, in order; it starts above 0 if sessions precede the log
    theme: np.ndarray
    at_ms: np.ndarray  # since the log's start
    ordinal: np.ndarray  # from 0 within its session


def draw_requests(params: SimulatorParams, users: Users, rng: np.random.Generator) -> Visits:
    """Every user's requests within the log. Each round draws one session of every user who still has one."""
    U, end_ms = params.num_users, params.num_days * DAY_S * 1000
    left_U = rng.geometric(1.0 / params.num_sessions, U)  # sessions that reach into the log, at least one
    free_ms_U, gap_s_U = np.full(U, -BURN_IN_S * 1000), _first_s(params, rng)
    theme_U = np.full(U, -1)
    session, rounds = 0, []
    user_A = np.arange(U)
    while len(user_A):
        theme_U[user_A] = _next_theme(users.weight[user_A], theme_U[user_A], rng)
        num_A = 1 + rng.geometric(MORE_REQUESTS, len(user_A))
        starts_A = np.cumsum(num_A) - num_A
        step_s = REQUEST_MIN_S + rng.exponential(REQUEST_MEAN_S, num_A.sum())
        step_s[starts_A] = gap_s_U[user_A]
        # whole milliseconds, at least one: equal on every machine, and strictly increasing for a user
        total_ms = np.cumsum(np.maximum(np.rint(1000.0 * step_s), 1.0).astype(np.int64))
        before_A = np.r_[0, total_ms[starts_A[1:] - 1]]
        user, ordinal = np.repeat(user_A, num_A), np.arange(len(step_s)) - np.repeat(starts_A, num_A)
        at_ms = total_ms + np.repeat(free_ms_U[user_A] - before_A, num_A)
        rounds.append((user, np.full(len(user), session), theme_U[user], at_ms, ordinal))
        free_ms_U[user_A] = at_ms[starts_A + num_A - 1]
        left_U[user_A] -= free_ms_U[user_A] >= 0
        gap_s_U[user_A] = _gap_s(len(user_A), rng)
        session += 1
        user_A = user_A[(left_U[user_A] > 0) & (free_ms_U[user_A] < end_ms)]
    columns = [np.concatenate(column) for column in zip(*rounds, strict=True)]
    order = np.lexsort((columns[0], columns[3]))
    at_ms = columns[3][order]
    order = order[(at_ms >= 0) & (at_ms < end_ms)]
    return Visits(*(column[order] for column in columns))


def _first_s(params: SimulatorParams, rng: np.random.Generator) -> np.ndarray:
    """[U] seconds from the start of the burn-in to each user's first session, drawn from the steady state.

    New users join during the log. Leaving is equally likely after any session, so users who joined earlier differ only
    in that the burn-in starts within a gap between two of their sessions, more often within a long one.
    """
    U, whole_s = params.num_users, float(params.num_days * DAY_S)
    life_s = (params.num_sessions - 1) * CYCLE_S
    spread = np.where(rng.random(U) < LONG_MEAN_S / (LONG_MEAN_S + GAP_MIN_S), GAP_LOG_SPREAD**2, 0.0)
    gap_s_U = np.exp(GAP_LOG_MEAN + spread + GAP_LOG_SPREAD * rng.standard_normal(U)) + GAP_MIN_S
    rest_s_U, joined_s_U = gap_s_U * rng.random(U), BURN_IN_S + whole_s * rng.random(U)
    before_U = (rng.random(U) < life_s / (life_s + whole_s)) & (rest_s_U < whole_s)
    return np.where(before_U, rest_s_U, joined_s_U)


def _gap_s(number: int, rng: np.random.Generator) -> np.ndarray:
    long_s = rng.lognormal(GAP_LOG_MEAN, GAP_LOG_SPREAD, number) + GAP_MIN_S
    return np.where(rng.random(number) < HOP_SHARE, rng.exponential(HOP_MEAN_S, number), long_s)


def _next_theme(weight_AT: np.ndarray, last_A: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """[A] the next session's theme, drawn by the users' weights, never the last one. last_A: -1 if there was none."""
    other_AT = np.where(np.arange(weight_AT.shape[1]) == last_A[:, None], 0.0, weight_AT)
    return choose(other_AT, rng.random(len(last_A)))


def choose(weight_NT: np.ndarray, uniform_N: np.ndarray) -> np.ndarray:
    """Choose a column of each row in proportion to its weight, never one of weight 0. uniform_N: numbers in [0, 1)."""
    ends_NT = np.cumsum(weight_NT, axis=1)
    return (ends_NT <= (uniform_N * ends_NT[:, -1])[:, None]).sum(axis=1)
