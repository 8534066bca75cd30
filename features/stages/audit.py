"""Histories and sessions -> the interest-shift audit: do users hop between themes more than with shuffled events?

The theme of a session is the most frequent theme of its events, or the first of these by name. A hop is a session whose
theme differs from that of the user's previous session. Only sessions with enough events are judged.
"""
# pyright: reportAttributeAccessIssue=false

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
from features.shifts.measure import (
    hop_rates,
    off_theme,
    returns,
    shifts,
    shuffled,
    spread,
    stability,
    transitions,
)
from features.shifts.people import segments, strips
from features.shifts.themes import NO_THEME, Themes, find_themes, session_themes
from features.shifts.verdict import ADVICE, RULES, advice, judge
from features.tables.histories import UserHistories
from features.terms.params import AuditParams

log = logging.getLogger("leitmotif")

Int64 = npt.NDArray[np.int64]

PAGE = "shift.html"
TOP = 20
SHOWN_THEMES = 12


def run(data: Path, audit: AuditParams) -> Report:
    """Write the audit and its page. In a log without themes the rates are null; its sessions are still counted."""
    from features.pages.shift import write_shift  # imports Altair, so only when a page is written

    histories = UserHistories.open(data / "user_histories")
    sessions = pq.read_table(data / "sessions" / "sessions.parquet")
    themes = find_themes(histories, audit.num_themes, audit.seed)
    measured = _measure(histories, sessions, themes, audit)
    state, sentence = judge(measured)
    told = measured | {"log": data.name, "state": state, "sentence": sentence, "advice": advice(state, measured)}
    told |= {"rules": {"verdict": RULES, "advice": ADVICE}}
    with publish(data, "shift_audit") as staging:
        write_json(staging / "shift_audit" / "audit.json", told)
        page = data.parent.parent / "reports" / data.name / PAGE
        write_shift(page, told, None)
    log.info("%s See %s", sentence, page)
    kept = (
        "num_sessions",
        "num_sessions_judged",
        "num_users_with_two_sessions",
        "num_pairs",
        "hop_rate",
        "return_rate",
    )
    kept += ("expected_hop_rate", "themes_per_user", "sessions_per_user", "events_per_session", "session_length_s")
    kept += ("state", "sentence", "stability", "shuffled", "themes_made_of")
    return {name: told[name] for name in kept}


def _measure(histories: UserHistories, sessions: pa.Table, themes: Themes, audit: AuditParams) -> dict[str, Any]:
    num_events = sessions["num_events"].to_numpy().astype(np.int64)
    item = np.asarray(histories.item_index).astype(np.int64) - FIRST_INDEX
    user = np.repeat(np.arange(len(histories.offsets) - 1), np.diff(histories.offsets))
    session = np.repeat(np.arange(len(num_events)), num_events)
    theme_of_item = themes.first(np.bincount(item, minlength=len(themes.starts) - 1))
    events = theme_of_item[item]
    theme = session_themes(themes, item, num_events)
    large = (num_events >= audit.min_session_events) & (theme != NO_THEME)
    of_user = sessions["user_index"].to_numpy().astype(np.int64)
    started, ended = (sessions[name].cast(pa.int64()).to_numpy() for name in ("started_at", "ended_at"))
    random = np.random.default_rng(audit.seed)
    judged_user, judged_theme = of_user[large], theme[large]
    by_chance = [
        _by_chance(user, session, item, num_events, themes, theme_of_item, of_user, started, audit, random)
        for _ in range(audit.num_shuffles if themes.names else 0)
    ]
    pairs, rates = hop_rates(judged_user, judged_theme, len(histories.user_ids))
    counts = np.bincount(judged_theme, minlength=len(themes.names))
    top = np.argsort(-counts, kind="stable")
    moves = transitions(judged_user, judged_theme, len(themes.names))
    shown = [int(place) for place in top[:SHOWN_THEMES] if counts[place]]
    return {
        "num_users": len(histories.user_ids),
        "num_events": len(item),
        "num_events_themed": int((events != NO_THEME).sum()),
        "num_sessions": len(sessions),
        "num_sessions_judged": int(large.sum()),
        "num_users_with_two_sessions": int((np.bincount(judged_user, minlength=1) >= 2).sum()),
        **shifts(judged_user, judged_theme),
        "sessions_per_user": spread(np.bincount(of_user, minlength=len(histories.user_ids))),
        "events_per_session": spread(num_events),
        "session_length_s": spread((ended - started) / 1e6),
        "gap_s": spread((started[1:] - ended[:-1])[of_user[1:] == of_user[:-1]] / 1e6),
        "min_session_events": audit.min_session_events,
        "themes": [themes.names[place] for place in shown],
        "themes_made_of": themes.made_of,
        "num_themes": len(themes.names),
        "sessions_by_theme": {themes.names[place]: int(counts[place]) for place in top[:TOP] if counts[place]},
        "matrix": moves[np.ix_(shown, shown)].tolist(),
        "stability": stability(user, session, events),
        "returns": returns(judged_user, started[large], judged_theme, audit.num_draws, random),
        "off_theme": off_theme(user, events),
        "shuffled": _together(by_chance),
        "segments": segments(pairs, rates, judged_user, judged_theme, np.diff(histories.offsets)),
        "strips": strips(pairs, rates, of_user, theme, num_events, started, shown),
    }


def _by_chance(
    user: Int64,
    session: Int64,
    item: Int64,
    num_events: Int64,
    themes: Themes,
    theme_of_item: Int64,
    of_user: Int64,
    started: Int64,
    audit: AuditParams,
    random: np.random.Generator,
) -> dict[str, Any]:
    """The same measures with each user's events in random order; the boundaries of sessions do not change."""
    other = item[shuffled(user, random)]
    theme = session_themes(themes, other, num_events)
    large = (num_events >= audit.min_session_events) & (theme != NO_THEME)
    found = shifts(of_user[large], theme[large])
    return {
        **stability(user, session, theme_of_item[other]),
        "hop_rate": found["hop_rate"],
        "return_rate": found["return_rate"],
        "returns": {
            row["lag_days"]: row["rate"] for row in returns(of_user[large], started[large], theme[large], 0, random)
        },
        "off_theme": {row["window"]: row["share"] for row in off_theme(user, theme_of_item[other])},
    }


def _together(found: list[dict[str, Any]]) -> dict[str, Any]:
    """The mean of each measure over the shuffles; null if a shuffle lacks it."""
    if not found:
        none: dict[str, Any] = dict.fromkeys(("within", "between", "hop_rate", "return_rate"))
        return none | {"returns": {}, "off_theme": {}, "num_shuffles": 0}
    told: dict[str, Any] = {"num_shuffles": len(found)}
    for name, value in found[0].items():
        if isinstance(value, dict):
            told[name] = {str(key): _mean([each[name].get(key) for each in found]) for key in value}
        else:
            told[name] = _mean([each[name] for each in found])
    return told


def _mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if len(known) == len(values) and values else None


if __name__ == "__main__":
    main(run)
