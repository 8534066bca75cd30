"""Events and sessions with their themes -> rates: stability in sessions, hops between them, returns, off-theme share.

Every rate is compared with the rate of the same events shuffled within each user, its baseline by chance. numpy only.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from features.shifts.themes import NO_THEME

Int64 = npt.NDArray[np.int64]
Float = npt.NDArray[np.float64]
Bool = npt.NDArray[np.bool_]

DAY_US = 86_400_000_000
LAGS = range(1, 15)
"""Days after which a theme may be back."""
WINDOWS = (50, 200, 1000)
MIN_BEHIND = 100  # cases behind a rate that is shown


def shuffled(user: Int64, random: np.random.Generator) -> Int64:
    """A random permutation of events within each user. user: [E] ascending."""
    return np.argsort(user + random.random(len(user)), kind="stable")


def stability(user: Int64, session: Int64, theme: Int64) -> dict[str, float | None]:
    """The rate at which the next event has the same theme: within a session, and from a session to the next."""
    known = (theme[1:] != NO_THEME) & (theme[:-1] != NO_THEME) & (user[1:] == user[:-1])
    same, inside = theme[1:] == theme[:-1], session[1:] == session[:-1]
    return {"within": _mean(same[known & inside]), "between": _mean(same[known & ~inside])}


def shifts(user: Int64, theme: Int64) -> dict[str, Any]:
    """Rates over consecutive sessions of a user; null where no user has two.

    hop_rate: share of sessions whose theme differs from the previous session's. return_rate: share of hops to a theme
    that the user had before. expected_hop_rate: the hop rate if each user's sessions were in random order.
    """
    follows = np.flatnonzero(user[1:] == user[:-1]) + 1
    hops = follows[theme[follows] != theme[follows - 1]]
    _, first_at = np.unique(np.stack([user, theme]), axis=1, return_index=True)
    new = np.zeros(len(user), bool)
    new[first_at] = True
    return {
        "num_pairs": len(follows),
        "hop_rate": len(hops) / len(follows) if len(follows) else None,
        "expected_hop_rate": _expected(user, theme, len(follows)),
        "return_rate": float((~new[hops]).mean()) if len(hops) else None,
        "themes_per_user": spread(np.bincount(user[new], minlength=1)),
    }


def _expected(user: Int64, theme: Int64, num_pairs: int) -> float | None:
    """A user's n sessions shuffled: a pair has equal themes with probability sum m (m - 1) / (n (n - 1))."""
    if not num_pairs:
        return None
    pairs, count = np.unique(np.stack([user, theme]), axis=1, return_counts=True)
    total = np.bincount(user).astype(float)
    equal = np.bincount(pairs[0], weights=count * (count - 1.0), minlength=len(total))
    same = np.divide(equal, total * (total - 1), out=np.zeros(len(total)), where=total > 1)
    return float(1 - (same * np.maximum(total - 1, 0)).sum() / num_pairs)


def returns(
    user: Int64, started_us: Int64, theme: Int64, num_draws: int, random: np.random.Generator
) -> list[dict[str, Any]]:
    """By lag in days: if a user is active again that many days after a theme, the rate at which the theme is back.

    With a 95 % interval over users unless num_draws is 0. Arrays over sessions.
    """
    if not len(user):
        return []
    day = started_us // DAY_US - int(started_us.min()) // DAY_US
    num_days, width = int(day.max()) + 1 + max(LAGS), int(theme.max()) + 1
    there = np.unique(user * num_days + day)
    had = np.unique((user * num_days + day) * width + theme)
    of_user, num_users = had // width // num_days, int(user.max()) + 1
    told = []
    for lag in LAGS:
        again = np.isin(had // width + lag, there, assume_unique=False) & ((had // width) % num_days + lag < num_days)
        back = again & np.isin(had + lag * width, had)
        sums = np.stack([np.bincount(of_user, weights=each, minlength=num_users) for each in (back, again)]).astype(
            float
        )
        if sums[1].sum() < MIN_BEHIND:
            continue
        row: dict[str, Any] = {
            "lag_days": lag,
            "cases": int(sums[1].sum()),
            "rate": float(sums[0].sum() / sums[1].sum()),
        }
        if num_draws:
            row |= _interval(sums, num_draws, random)
        told.append(row)
    return told


def _interval(sums: Float, num_draws: int, random: np.random.Generator) -> dict[str, float]:
    held = sums[:, sums[1] > 0]
    weight = random.multinomial(held.shape[1], np.full(held.shape[1], 1 / held.shape[1]), num_draws)
    num, of = (weight @ each for each in held)
    low, high = np.quantile(num / np.maximum(of, 1), (0.025, 0.975))
    return {"low": float(low), "high": float(high)}


def off_theme(user: Int64, theme: Int64) -> list[dict[str, Any]]:
    """By length n: the share of the n events before an event that have another theme than it.

    Counts events with at least n predecessors. Events without a theme are left out.
    """
    known = theme != NO_THEME
    user, theme = user[known], theme[known]
    place = np.arange(len(user)) - np.searchsorted(user, user)  # of the event among its user's
    width, most = int(theme.max(initial=0)) + 1, len(user) + 1
    group = user * width + theme
    order = np.lexsort((place, group))
    key = group[order] * most + place[order]
    told = []
    for window in WINDOWS:
        at = np.flatnonzero(place[order] >= window)
        if len(at) < MIN_BEHIND:
            told.append({"window": window, "cases": len(at), "share": None})
            continue
        first = np.searchsorted(key, key[at] - window)
        first = np.maximum(first, np.searchsorted(key, group[order][at] * most))
        told.append({"window": window, "cases": len(at), "share": float(1 - (at - first).mean() / window)})
    return told


def transitions(user: Int64, theme: Int64, num_themes: int) -> Int64:
    """[T, T] number of consecutive sessions from one theme to another."""
    follows = np.flatnonzero(user[1:] == user[:-1]) + 1
    counts = np.zeros((num_themes, num_themes), np.int64)
    np.add.at(counts, (theme[follows - 1], theme[follows]), 1)
    return counts


def hop_rates(user: Int64, theme: Int64, num_users: int) -> tuple[Int64, Float]:
    """[U] pairs of consecutive sessions, and the share of them that are hops (nan without a pair)."""
    follows = np.flatnonzero(user[1:] == user[:-1]) + 1
    pairs = np.bincount(user[follows], minlength=num_users)
    hops = np.bincount(user[follows], weights=theme[follows] != theme[follows - 1], minlength=num_users)
    return pairs, np.divide(hops, pairs, out=np.full(num_users, np.nan), where=pairs > 0)


def spread(values: npt.NDArray[Any]) -> dict[str, float]:
    """Median, 95th percentile and largest."""
    if not len(values):
        return {"median": 0.0, "p95": 0.0, "max": 0.0}
    return {
        "median": float(np.median(values)),
        "p95": float(np.percentile(values, 95)),
        "max": float(values.max()),
    }


def _mean(values: Bool) -> float | None:
    return float(values.mean()) if len(values) >= MIN_BEHIND else None
