"""Histories and sessions -> whether users hop between themes: how often consecutive sessions differ, and come back.

The theme of a session is the category that most of its events carry, ties going to the first in name; a hop is a
session whose theme differs from that of the user's previous one. Only sessions with enough events are looked at.
"""

import logging
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from contracts.publish import publish, write_json
from contracts.schema import FIRST_INDEX
from contracts.stage import Report, main
from features.tables.histories import UserHistories
from features.terms.params import AuditParams

log = logging.getLogger("leitmotif")

Int64 = npt.NDArray[np.int64]

NO_THEME = -1
TOP = 20


def run(data: Path, audit: AuditParams) -> Report:
    """A log without categories has no themes to hop between: its rates are null, and its sessions are counted."""
    histories = UserHistories.open(data / "user_histories")
    sessions = pq.read_table(data / "sessions" / "sessions.parquet")
    num_events = sessions["num_events"].to_numpy()
    names, theme = session_themes(histories, num_events)
    large = (num_events >= audit.min_session_events) & (theme != NO_THEME)
    user = sessions["user_index"].to_numpy()[large]
    found = shifts(user, theme[large])
    started, ended = (sessions[name].cast(pa.int64()).to_numpy() for name in ("started_at", "ended_at"))
    per_user = np.bincount(sessions["user_index"].to_numpy(), minlength=len(histories.user_ids))
    report = {
        "num_sessions": len(sessions),
        "num_sessions_judged": int(large.sum()),
        "num_users_with_two_sessions": int((np.bincount(user, minlength=1) >= 2).sum()),
        **found,
        "sessions_per_user": _spread(per_user),
        "events_per_session": _spread(num_events),
        "session_length_s": _spread((ended - started) / 1e6),
    }
    counts = np.bincount(theme[large], minlength=len(names)) if len(names) else np.zeros(0, np.int64)
    top = np.argsort(-counts, kind="stable")[:TOP]
    with publish(data, "shift_audit") as staging:
        themes = {names[index]: int(counts[index]) for index in top if counts[index]}
        write_json(staging / "shift_audit" / "audit.json", report | {"sessions_by_theme": themes})
    return report


def session_themes(histories: UserHistories, num_events: Int64) -> tuple[list[str], Int64]:
    """Names of the themes, and the theme of each session in order (NO_THEME where no event has a category).

    num_events: events of each session; sessions follow one another in the flat arrays. An event with several
    categories counts for each.
    """
    lists = histories.vocabulary["categories"].combine_chunks()
    encoded = lists.flatten().dictionary_encode()
    order = np.argsort(np.array(encoded.dictionary.to_pylist(), object), kind="stable")
    names = [encoded.dictionary[int(index)].as_py() for index in order]
    rank = np.argsort(order)
    codes = rank[encoded.indices.to_numpy()] if len(names) else np.zeros(0, np.int64)
    sizes = lists.value_lengths().to_numpy()
    starts = np.r_[0, np.cumsum(sizes)]
    session = np.repeat(np.arange(len(num_events)), num_events)
    item = histories.item_index.astype(np.int64) - FIRST_INDEX
    repeats = sizes[item]
    within = np.arange(repeats.sum()) - np.repeat(np.cumsum(repeats) - repeats, repeats)
    code = codes[np.repeat(starts[item], repeats) + within]
    pair, count = np.unique(np.repeat(session, repeats) * max(len(names), 1) + code, return_counts=True)
    of_session, of_theme = pair // max(len(names), 1), pair % max(len(names), 1)
    best = np.lexsort((of_theme, -count, of_session))
    first = best[np.flatnonzero(np.r_[True, np.diff(of_session[best]) > 0])] if len(best) else best
    theme = np.full(len(num_events), NO_THEME, np.int64)
    theme[of_session[first]] = of_theme[first]
    return names, theme


def shifts(user: Int64, theme: Int64) -> dict[str, Any]:
    """Rates over consecutive sessions of a user; null where no user has two.

    hop_rate: the theme differs from the session before. return_rate: of those, the theme had been there earlier.
    expected_hop_rate: were each user's sessions in any order, what the hop rate would be.
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
        "themes_per_user": _spread(np.bincount(user[new], minlength=1)),
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


def _spread(values: npt.NDArray[Any]) -> dict[str, float]:
    if not len(values):
        return {"median": 0.0, "p95": 0.0, "max": 0.0}
    return {
        "median": float(np.median(values)),
        "p95": float(np.percentile(values, 95)),
        "max": float(values.max()),
    }


if __name__ == "__main__":
    main(run)
