"""Simulator params and a seed -> a log of requests and clicks whose themes are known.

The appendix of MODEL.md in code: log A if preference is `item`, log B if it is `session`, both in a steady state. Axes:
U users, T themes, P places on the shelf, R requests, M candidates of a request.
"""
# pyright: reportAttributeAccessIssue=false

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from contracts.schema import ITEMS, REJECTED, ROLE_IMPRESSION, TIME
from features.sources.log import EVENTS, Log
from features.sources.simulator_policy import Slates, draw_slates
from features.sources.simulator_shelf import fill_shelf, offered_from
from features.sources.simulator_visits import Visits, draw_requests
from features.sources.simulator_world import NUM_STYLES, Users, WorldItems, draw_items, draw_users
from features.terms.params import SimulatorParams

STARTED_AT_MS = 1_704_067_200_000  # 2024-01-01T00:00:00Z
HOUR_MS = 3_600_000
LOGIT_BASE, LOGIT_SESSION, LOGIT_OWN = -3.2, 1.8, 0.5


def simulate(params: SimulatorParams, seed: int) -> Log:
    """Draw one log. The same params and seed give the same bytes, because computed values are rounded before use.

    Raises InputError if a theme would have no item.
    """
    rng = np.random.Generator(np.random.PCG64(seed))
    items, users = draw_items(params, rng), draw_users(params, rng)
    shelf = fill_shelf(params, items, rng)
    requests = draw_requests(params, users, rng)
    slates = draw_slates(params, shelf, users, requests, rng)
    hour_R = requests.at_ms // HOUR_MS
    item_RM, appeal_RM = (values[hour_R[:, None], slates.place] for values in (shelf.item, shelf.appeal))
    logit_RM = _logits(params, items, users, requests, item_RM, appeal_RM)
    click_RM = rng.random(logit_RM.shape) < 1.0 / (1.0 + np.exp(-logit_RM))
    events = _events(requests, params.num_users, len(items.theme), item_RM, click_RM)
    truth = _truth(items, users, requests, events, slates, logit_RM)
    return Log(events, _catalogue(items), REJECTED.empty_table(), num_files=0, truth=truth)


def _logits(
    params: SimulatorParams,
    items: WorldItems,
    users: Users,
    requests: Visits,
    item_RM: np.ndarray,
    appeal_RM: np.ndarray,
) -> np.ndarray:
    """logit_RM, rounded, so that a click does not depend on the last bit of a machine's arithmetic."""
    user_RM, theme_RM = requests.user[:, None], items.theme[item_RM]
    applied_RM = theme_RM if params.preference == "item" else np.broadcast_to(requests.theme[:, None], theme_RM.shape)
    taste_RM = np.zeros(theme_RM.shape)
    for k in range(NUM_STYLES):
        taste_RM += users.preference[user_RM, applied_RM, k] * items.style[item_RM, k]
    logit_RM = LOGIT_BASE + users.bias[user_RM] + taste_RM + appeal_RM
    logit_RM += LOGIT_SESSION * (theme_RM == requests.theme[:, None])
    logit_RM += LOGIT_OWN * (users.weight[user_RM, theme_RM] > 0)
    return np.round(logit_RM, 3)


def _events(requests: Visits, num_users: int, num_items: int, item_RM: np.ndarray, click_RM: np.ndarray) -> pa.Table:
    R, M = item_RM.shape
    request = pa.array(np.repeat(np.arange(R), M))
    columns = {
        "event_id": _names("e", R * M),
        "user_id": _names("u", num_users).take(pa.array(requests.user)).take(request),
        "item_id": _names("i", num_items).take(pa.array(item_RM.ravel())),
        "occurred_at": _times(requests.at_ms).take(request),
        "label": pa.array(click_RM.ravel().astype(np.float32)),
        "impression_id": _names("r", R).take(request),
        "position": pa.array(np.tile(np.arange(M, dtype=np.int32), R)),
        "session_id": pa.nulls(R * M, pa.string()),  # logs rarely have sessions; the truth does
        "role": pa.repeat(ROLE_IMPRESSION, R * M),
        "known_at": pa.nulls(R * M, TIME),
        "arrived_at": pa.nulls(R * M, TIME),
        "file": pa.repeat("simulator", R * M),
        "line": pa.repeat(pa.scalar(0, pa.int64()), R * M),
    }
    return pa.table(columns, schema=EVENTS)


def _catalogue(items: WorldItems) -> pa.Table:
    num_items = len(items.theme)
    ends = pa.array(np.arange(num_items + 1, dtype=np.int32))
    categories = _names("c", int(items.category.max()) + 1).take(pa.array(items.category))
    columns = {
        "item_id": _names("i", num_items),
        "title": pa.nulls(num_items, pa.string()),
        "categories": pa.ListArray.from_arrays(ends, categories),
        "published_at": _times(np.rint(items.born_h * HOUR_MS)),
        "embedding": pa.nulls(num_items, ITEMS.field("embedding").type),
    }
    return pa.table(columns).cast(ITEMS)


def _truth(
    items: WorldItems, users: Users, requests: Visits, events: pa.Table, slates: Slates, logit_RM: np.ndarray
) -> dict[str, pa.Table]:
    """The ground truth, which no real log has: to judge themes and off-policy estimates, never to train."""
    user_ids = _names("u", len(users.bias))
    from_at = _times(offered_from(items) * HOUR_MS)
    num_places = int(items.place.max()) + 1
    until_at = pa.concat_arrays([from_at[num_places:], pa.nulls(num_places, TIME)])  # null: offered until the log ends
    return {
        "items": pa.table(
            {
                "item_id": _names("i", len(items.theme)),
                "theme": items.theme.astype(np.int32),
                "cluster": items.cluster.astype(np.int32),
                "quality": np.round(items.quality, 6),
                "offered_from": from_at,
                "offered_until": until_at,
            }
        ),
        "users": pa.table({"user_id": user_ids, "theme_weights": list(np.round(users.weight, 6))}),
        "requests": pa.table(
            {
                "impression_id": _names("r", len(requests.user)),
                "user_id": user_ids.take(pa.array(requests.user)),
                "occurred_at": _times(requests.at_ms),
                "session": requests.session.astype(np.int32),
                "theme": requests.theme.astype(np.int32),
                "ordinal": requests.ordinal.astype(np.int32),
            }
        ),
        "logits": pa.table({"event_id": events["event_id"], "logit": logit_RM.ravel().astype(np.float32)}),
        "propensities": pa.table(
            {
                "event_id": events["event_id"],
                "impression_id": events["impression_id"],
                "item_id": events["item_id"],
                "propensity": np.round(slates.propensity.ravel(), 12).astype(np.float32),
                "one_draw": np.round(slates.one_draw.ravel(), 12).astype(np.float32),
            }
        ),
    }


def _times(at_ms: np.ndarray) -> pa.Array:
    return pa.array((STARTED_AT_MS + at_ms.astype(np.int64)) * 1000).cast(TIME)


def _names(prefix: str, count: int) -> pa.Array:
    """Readable ids in order: u00000, u00001, ..."""
    numbers = pa.array(np.arange(count)).cast(pa.string())
    return pc.binary_join_element_wise(prefix, pc.utf8_lpad(numbers, max(5, len(str(count - 1))), "0"), "")
