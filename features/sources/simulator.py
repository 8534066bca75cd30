"""Simulator params and a seed -> a log of requests and clicks whose themes are known.

The appendix of MODEL.md in code: log A where preference is `item`, log B where it is `session`.

Axes: U users, T themes, S sessions of a user, N sessions of all users, R requests, M candidates of a request.
"""
# pyright: reportAttributeAccessIssue=false

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from contracts.schema import ITEMS, REJECTED, ROLE_IMPRESSION, TIME
from features.sources.log import EVENTS, Log
from features.sources.simulator_world import NUM_STYLES, Items, Users, draw_items, draw_users
from features.terms.params import SimulatorParams

STARTED_AT_MS = 1_704_067_200_000  # 2024-01-01T00:00:00Z
NUM_CANDIDATES = 5
GAP_LOG_MEAN, GAP_LOG_SPREAD, GAP_MIN_S = 9.5, 1.0, 3600.0
HOP_SHARE, HOP_MEAN_S = 0.25, 60.0
MORE_REQUESTS = 0.2  # a session has 1 + Geometric(this) requests
REQUEST_MIN_S, REQUEST_MEAN_S = 5.0, 40.0
SESSION_SHARE, OWN_SHARE = 0.65, 0.20  # of candidates; the rest is of any theme
NEXT_SHARE = 0.5  # log B: of candidates
LOGIT_BASE, LOGIT_SESSION, LOGIT_OWN = -2.7, 1.8, 0.5


@dataclass(frozen=True)
class Requests:
    """Arrays over R, sorted by (time, user)."""

    user: np.ndarray
    session: np.ndarray  # from 0 for each user
    theme: np.ndarray
    at_ms: np.ndarray
    ordinal: np.ndarray  # from 0 within its session


def simulate(params: SimulatorParams, seed: int) -> Log:
    """Draw one log. The same params and seed give the same bytes: what is drawn is rounded before it is used.

    Raises InputError where a theme is left without an item.
    """
    rng = np.random.Generator(np.random.PCG64(seed))
    items, users = draw_items(params, rng), draw_users(params, rng)
    requests = _draw_requests(params, users, rng)
    candidate_RM = _draw_candidates(params, items, users, requests, rng)
    logit_RM = _logits(params, items, users, requests, candidate_RM)
    click_RM = rng.random(logit_RM.shape) < 1.0 / (1.0 + np.exp(-logit_RM))
    events = _events(requests, params, candidate_RM, click_RM)
    truth = _truth(items, users, requests, events, logit_RM)
    return Log(events, _catalogue(items), REJECTED.empty_table(), num_files=0, truth=truth)


def _draw_requests(params: SimulatorParams, users: Users, rng: np.random.Generator) -> Requests:
    U, S = params.num_users, params.num_sessions
    theme_US = np.empty((U, S), dtype=np.int64)
    for session in range(S):
        weight_UT = users.weight.copy()
        if session:
            weight_UT[np.arange(U), theme_US[:, session - 1]] = 0.0
        theme_US[:, session] = _choose(weight_UT, rng.random(U))
    long_US = rng.lognormal(GAP_LOG_MEAN, GAP_LOG_SPREAD, (U, S)) + GAP_MIN_S
    hop_US = rng.exponential(HOP_MEAN_S, (U, S))
    gap_N = np.where(rng.random((U, S)) < HOP_SHARE, hop_US, long_US).ravel()
    num_N = 1 + rng.geometric(MORE_REQUESTS, U * S)
    session_R = np.repeat(np.arange(U * S), num_N)
    first_R = np.cumsum(num_N)[session_R] - num_N[session_R]
    ordinal_R = np.arange(len(session_R)) - first_R
    step_R = REQUEST_MIN_S + rng.exponential(REQUEST_MEAN_S, len(session_R))
    # whole milliseconds, at least one: equal on every machine, and strictly increasing for a user
    step_ms_R = np.maximum(np.rint(1000.0 * np.where(ordinal_R == 0, gap_N[session_R], step_R)), 1.0).astype(np.int64)
    user_R = session_R // S
    total_R = np.cumsum(step_ms_R)
    before_U = np.searchsorted(user_R, np.arange(U))
    at_ms_R = STARTED_AT_MS + total_R - (total_R - step_ms_R)[before_U][user_R]
    order = np.lexsort((user_R, at_ms_R))
    columns = (user_R, session_R % S, theme_US.ravel()[session_R], at_ms_R, ordinal_R)
    return Requests(*(column[order] for column in columns))


def _draw_candidates(
    params: SimulatorParams, items: Items, users: Users, requests: Requests, rng: np.random.Generator
) -> np.ndarray:
    """candidate_RM, distinct within a request: whoever repeats an earlier one is drawn again."""
    candidate_RM = np.full((len(requests.user), NUM_CANDIDATES), -1)
    row, column = (index.ravel() for index in np.indices(candidate_RM.shape))
    while len(row):
        theme = _candidate_themes(params, users, requests.user[row], requests.theme[row], rng)
        candidate_RM[row, column] = items.draw(theme, rng.random(len(row)))
        same_RMM = candidate_RM[:, :, None] == candidate_RM[:, None, :]
        row, column = np.nonzero(np.tril(same_RMM, -1).any(axis=2))
    return candidate_RM


def _candidate_themes(
    params: SimulatorParams, users: Users, user: np.ndarray, theme: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    own = _choose(users.weight[user], rng.random(len(user)))
    any_theme = rng.integers(params.num_themes, size=len(user))
    kind = rng.random(len(user))
    drawn = np.where(kind < SESSION_SHARE, theme, np.where(kind < SESSION_SHARE + OWN_SHARE, own, any_theme))
    if params.preference == "item":
        return drawn
    return np.where(rng.random(len(user)) < NEXT_SHARE, (theme + 1) % params.num_themes, drawn)


def _logits(
    params: SimulatorParams, items: Items, users: Users, requests: Requests, candidate_RM: np.ndarray
) -> np.ndarray:
    """logit_RM, rounded: what is left of a machine's last bit must not turn a click."""
    user_RM, theme_RM = requests.user[:, None], items.theme[candidate_RM]
    applied_RM = theme_RM if params.preference == "item" else np.broadcast_to(requests.theme[:, None], theme_RM.shape)
    taste_RM = np.zeros(theme_RM.shape)
    for k in range(NUM_STYLES):
        taste_RM += users.preference[user_RM, applied_RM, k] * items.style[candidate_RM, k]
    logit_RM = LOGIT_BASE + users.bias[user_RM] + taste_RM + items.quality[candidate_RM]
    logit_RM += LOGIT_SESSION * (theme_RM == requests.theme[:, None])
    logit_RM += LOGIT_OWN * (users.weight[user_RM, theme_RM] > 0)
    return np.round(logit_RM, 3)


def _choose(weight_NT: np.ndarray, uniform_N: np.ndarray) -> np.ndarray:
    """One column of each row, in proportion to its weight; never one of weight 0."""
    ends_NT = np.cumsum(weight_NT, axis=1)
    return (ends_NT <= (uniform_N * ends_NT[:, -1])[:, None]).sum(axis=1)


def _events(requests: Requests, params: SimulatorParams, candidate_RM: np.ndarray, click_RM: np.ndarray) -> pa.Table:
    R, M = candidate_RM.shape
    request = pa.array(np.repeat(np.arange(R), M))
    columns = {
        "event_id": _names("e", R * M),
        "user_id": _names("u", params.num_users).take(pa.array(requests.user)).take(request),
        "item_id": _names("i", params.num_items).take(pa.array(candidate_RM.ravel())),
        "occurred_at": _times(requests).take(request),
        "label": pa.array(click_RM.ravel().astype(np.float32)),
        "impression_id": _names("r", R).take(request),
        "position": pa.array(np.tile(np.arange(M, dtype=np.int32), R)),
        "session_id": pa.nulls(R * M, pa.string()),  # a log seldom knows its sessions; the truth does
        "role": pa.repeat(ROLE_IMPRESSION, R * M),
        "known_at": pa.nulls(R * M, TIME),
        "arrived_at": pa.nulls(R * M, TIME),
        "file": pa.repeat("simulator", R * M),
        "line": pa.repeat(pa.scalar(0, pa.int64()), R * M),
    }
    return pa.table(columns, schema=EVENTS)


def _catalogue(items: Items) -> pa.Table:
    num_items = len(items.theme)
    ends = pa.array(np.arange(num_items + 1, dtype=np.int32))
    categories = _names("c", int(items.category.max()) + 1).take(pa.array(items.category))
    columns = {
        "item_id": _names("i", num_items),
        "title": pa.nulls(num_items, pa.string()),
        "categories": pa.ListArray.from_arrays(ends, categories),
        "published_at": pa.nulls(num_items, TIME),
        "embedding": pa.nulls(num_items, ITEMS.field("embedding").type),
    }
    return pa.table(columns).cast(ITEMS)


def _truth(
    items: Items, users: Users, requests: Requests, events: pa.Table, logit_RM: np.ndarray
) -> dict[str, pa.Table]:
    """What no log shows: for judging themes and routing, never for training."""
    user_ids = _names("u", len(users.bias))
    return {
        "items": pa.table(
            {
                "item_id": _names("i", len(items.theme)),
                "theme": items.theme.astype(np.int32),
                "cluster": items.cluster.astype(np.int32),
                "quality": np.round(items.quality, 6),
            }
        ),
        "users": pa.table({"user_id": user_ids, "theme_weights": list(np.round(users.weight, 6))}),
        "requests": pa.table(
            {
                "impression_id": _names("r", len(requests.user)),
                "user_id": user_ids.take(pa.array(requests.user)),
                "occurred_at": _times(requests),
                "session": requests.session.astype(np.int32),
                "theme": requests.theme.astype(np.int32),
                "ordinal": requests.ordinal.astype(np.int32),
            }
        ),
        "logits": pa.table({"event_id": events["event_id"], "logit": logit_RM.ravel().astype(np.float32)}),
    }


def _times(requests: Requests) -> pa.Array:
    return pa.array(requests.at_ms * 1000).cast(TIME)


def _names(prefix: str, count: int) -> pa.Array:
    """Readable ids in order: u00000, u00001, ..."""
    numbers = pa.array(np.arange(count)).cast(pa.string())
    return pc.binary_join_element_wise(prefix, pc.utf8_lpad(numbers, max(5, len(str(count - 1))), "0"), "")
