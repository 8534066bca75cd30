"""The audit's rates -> one sentence with the finding, and at most three with advice, by rules that the page states."""

from collections.abc import Mapping
from typing import Any

MIN_PAIRS = 100
CLEAR, FAINT = 0.1, 0.03
"""Stability above chance from which the session structure is clear, and below which there is none."""
SHIFTS, NONE, WEAK, NOT_JUDGED = "shifts", "none", "weak", "not judged"
RULES = (
    f"clear: within a session the next event keeps its theme more often than shuffled by {100 * CLEAR:.0f} points or "
    f"more; none: by less than {100 * FAINT:.0f} points; not judged: fewer than {MIN_PAIRS} pairs of consecutive "
    "sessions, or no themes"
)


def judge(told: Mapping[str, Any]) -> tuple[str, str]:
    """The state of the log (SHIFTS, NONE, WEAK, NOT_JUDGED), and a sentence that says so with the baseline."""
    within, chance = told["stability"]["within"], told["shuffled"]["within"]
    if told["num_pairs"] < MIN_PAIRS or within is None or chance is None:
        return NOT_JUDGED, (
            f"Not judged: {told['num_pairs']:,} pairs of consecutive sessions have a theme, {MIN_PAIRS} are needed."
            + (
                " The log tells no themes: no category, and too few items that several users share."
                if not told["themes"]
                else ""
            )
        )
    beside = f"{_percent(within)} of cases (with the same events shuffled within each user: {_percent(chance)})"
    if within - chance < FAINT:
        return NONE, f"No session structure: within a session the next event keeps its theme in {beside}, as by chance."
    kind = SHIFTS if within - chance >= CLEAR else WEAK
    how = (
        "Interests hold within a session and shift between them"
        if kind == SHIFTS
        else "Interests hold weakly in sessions"
    )
    came = told["return_rate"]
    return kind, (
        f"{how}: the next event keeps its theme in {beside}; {_percent(told['hop_rate'])} of sessions turn to another "
        f"theme (shuffled: {_percent(told['shuffled']['hop_rate'])})"
        + (f", {_percent(came)} of these turns to one that the person had been in before." if came is not None else ".")
    )


def advice(state: str, told: Mapping[str, Any]) -> list[str]:
    """At most three sentences; each follows from a rule that the page prints."""
    if state == NOT_JUDGED:
        return ["Give a longer log, or one whose items have categories (source.columns.categories)."]
    if state == NONE:
        return ["Sessions say nothing of interests here: a model without themes (DIN) is enough."]
    sentences = []
    far = next((each for each in told["off_theme"] if each["share"] is not None and each["share"] >= 0.5), None)
    if state == SHIFTS and far:
        sentences.append(
            f"Try routing by theme: within a session the theme holds, but {_percent(far['share'])} of a person's last "
            f"{far['window']} events are of another theme than the next click. Whether it pays on this log is measured "
            "by training both models: the page shift_models.html."
        )
    came, by_chance = told["return_rate"], told["shuffled"]["return_rate"]
    beside = "" if by_chance is None else f" (shuffled: {_percent(by_chance)})"
    if came is not None and came >= 0.5 and (by_chance is None or came >= by_chance):
        sentences.append(
            f"Keep long histories: {_percent(came)} of turns go back to a theme of earlier sessions{beside}, not to a "
            "new one."
        )
    elif came is not None and came < 0.5:
        sentences.append(f"Offer new themes: {_percent(1 - came)} of turns go to one that the person had not been in.")
    if (told["hop_rate"] or 0) >= 0.5:
        sentences.append(
            "React to the first clicks of a session: half of the sessions have at most "
            f"{told['events_per_session']['median']:.0f} events, and most turn to another theme than the one before."
        )
    return sentences[:3]


ADVICE = (
    "routing by theme where the session structure is clear and at least half of a history is off-theme; "
    "long histories where at least half of the turns are returns and no fewer than shuffled; new themes "
    "where less than half are; first clicks where at least half of the sessions are turns"
)


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"
