"""Histories and sessions -> the interest-shift audit: do users hop between themes more than with shuffled events?

The theme of a session is the most frequent theme of its events, or the first of these by name. A hop is a session whose
theme differs from that of the user's previous session. Only sessions with enough events are judged.
"""
# pyright: reportAttributeAccessIssue=false

import logging
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from contracts.publish import publish, write_json
from contracts.stage import Report, main
from features.engine.engine import HERE, Engine, running
from features.shifts.chance import Shuffles, after_shuffles, by_chance, mean_of
from features.shifts.events import Events
from features.shifts.measure import hop_rates, off_theme, returns, shifts, spread, stability, transitions
from features.shifts.people import segments, strips
from features.shifts.themes import NO_THEME, Themes, find_themes, session_themes
from features.shifts.verdict import ADVICE, RULES, advice, judge
from features.tables.histories import UserHistories
from features.terms.params import AuditParams, EngineParams

log = logging.getLogger("leitmotif")

PAGE = "shift.html"
TOP = 20
SHOWN_THEMES = 12


def run(data: Path, audit: AuditParams, engine: EngineParams = HERE) -> Report:
    """Write the audit and its page. In a log without themes the rates are null; its sessions are still counted.

    engine: what shuffles the events.
    """
    from features.pages.shift import write_shift  # imports Altair, so only when a page is written

    histories = UserHistories.open(data / "user_histories")
    themes = find_themes(histories, audit.num_themes, audit.seed)
    with publish(data, "shift_audit") as staging:
        with running(engine, staging) as runner:
            measured = _measure(runner, data, histories, themes, audit)
        state, sentence = judge(measured)
        told = measured | {"log": data.name, "state": state, "sentence": sentence, "advice": advice(state, measured)}
        told |= {"rules": {"verdict": RULES, "advice": ADVICE}}
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


def _measure(
    engine: Engine, data: Path, histories: UserHistories, themes: Themes, audit: AuditParams
) -> dict[str, Any]:
    log_events = Events.read(data, histories)
    item, user, session, num_events = log_events.item, log_events.user, log_events.session, log_events.num_events
    of_user, started, ended = log_events.of_user, log_events.started, log_events.ended
    theme_of_item = themes.first(np.bincount(item, minlength=len(themes.starts) - 1))
    events = theme_of_item[item]
    theme = session_themes(themes, item, num_events)
    large = (num_events >= audit.min_session_events) & (theme != NO_THEME)
    num_shuffles = audit.num_shuffles if themes.names else 0
    shuffles = Shuffles(data, themes, theme_of_item, audit.min_session_events, audit.seed)
    shuffled = list(engine.map(partial(by_chance, shuffles), range(num_shuffles), "shuffling events"))
    random = after_shuffles(audit.seed, num_shuffles, len(item))
    judged_user, judged_theme = of_user[large], theme[large]
    pairs, rates = hop_rates(judged_user, judged_theme, len(histories.user_ids))
    counts = np.bincount(judged_theme, minlength=len(themes.names))
    top = np.argsort(-counts, kind="stable")
    moves = transitions(judged_user, judged_theme, len(themes.names))
    shown = [int(place) for place in top[:SHOWN_THEMES] if counts[place]]
    return {
        "num_users": len(histories.user_ids),
        "num_events": len(item),
        "num_events_themed": int((events != NO_THEME).sum()),
        "num_sessions": len(num_events),
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
        "shuffled": mean_of(shuffled),
        "segments": segments(pairs, rates, judged_user, judged_theme, np.diff(histories.offsets)),
        "strips": strips(pairs, rates, of_user, theme, num_events, started, shown),
    }


if __name__ == "__main__":
    main(run)
