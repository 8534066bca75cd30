"""Two bundles on the same newest requests -> their difference with interval, overall and by slice, and a verdict."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from features.terms.params import LabelParams
from serving.params import PromoteParams
from serving.promoting.rescore import Incomparable, load_newest, masks_of, open_champion, open_fitted, score
from training.judging.measure import Scored, bootstrap, differences, measure_slices, rankable
from training.judging.slices import Mask
from training.judging.standing import name_of
from training.judging.tables import plain
from training.judging.verdict import MIN_USERS
from training.requests.reader import Requests, iso

METRIC = "iauc"
"""The metric that decides: mean AUC within a request, which measures the order of a request's candidates."""
SEED = 1
NDCG_AT = 10
SIDES = ("candidate", "champion")
NEWEST, CHAMPION = "the newest bundle", "the champion"


class Comparison(NamedTuple):
    """Whether the candidate becomes the champion, and the figures."""

    promoted: bool
    reason: str
    words: list[str]
    found: dict[str, Any]  # requests, figures of both sides, difference, slices; empty if they cannot be compared


def compare(candidate: Path, champion: Path, data: Path, labels: LabelParams, rules: PromoteParams) -> Comparison:
    """Score the newest requests of data/<source> by both. If that is impossible, it is refused with the reason."""
    try:
        sides = [open_fitted(candidate, NEWEST), open_champion(champion, CHAMPION)]
        newest = load_newest(data, sides, labels, rules.max_requests)
        if why := _too_few(newest.requests, rules):
            raise Incomparable(why)
        scored = {
            side: score(fitted, newest, what)
            for side, fitted, what in zip(SIDES, sides, (NEWEST, CHAMPION), strict=True)
        }
    except Incomparable as error:
        return Comparison(False, str(error), [], {})
    models = tuple(name_of(side.name) for side in sides)
    return weigh(scored, newest.requests, masks_of(sides[0], newest), rules, models)


def weigh(
    scored: Mapping[str, Scored],
    requests: Requests,
    masks: Mapping[str, Mask],
    rules: PromoteParams,
    models: tuple[str, ...],
) -> Comparison:
    """The scores of both SIDES on the same requests -> whether the candidate wins. models: display names of the two."""
    drawn = bootstrap(scored, requests, rules.num_bootstrap, SEED, NDCG_AT)
    gain = differences(drawn, [SIDES])["candidate_minus_champion"]
    looked_at = {name: mask for name, mask in masks.items() if name in _tolerance(rules)}
    slices = measure_slices(scored, requests, looked_at, [SIDES], rules.num_bootstrap, SEED)
    found = {
        "requests": _describe(requests),
        "figures": {side: each.value for side, each in drawn.items()},
        "difference": gain,
        "slices": slices,
    }
    return _decide(plain(found), rules, models)


def _decide(found: dict[str, Any], rules: PromoteParams, models: tuple[str, ...]) -> Comparison:
    gain, low, high = (found["difference"][f"{METRIC}{end}"] for end in ("", "_low", "_high"))
    new, old = (found["figures"][side][METRIC] for side in SIDES)
    fallen = [words for name, row in found["slices"].items() if (words := _fallen(name, row, rules))]
    word = "better than" if low > 0 else "worse than" if high < 0 else "not shown to be better than"
    reason = (
        f"the newest is {word} the champion: {METRIC} {new:.4f} against {old:.4f}, {gain:+.4f} (95 % interval "
        f"{low:+.4f} to {high:+.4f})"
    )
    if low > 0 and fallen:
        reason += f"; but it falls behind in {len(fallen)} of {len(found['slices'])} slices: {'; '.join(fallen)}"
    of = found["requests"]
    words = [
        f"Both were scored on the {of['num_requests']:,} newest requests that neither was trained or chosen on, "
        f"{of['from']} to {of['to']}; {of['num_requests_ranked']:,} of them can be ranked, of "
        f"{of['num_users_ranked']:,} users.",
        f"The newest ({models[0]}) is {word} the champion ({models[1]}) within a request: {gain:+.4f} {METRIC}, 95 % "
        f"interval {low:+.4f} to {high:+.4f}, bootstrapped over users.",
        *(f"It falls behind {each}." for each in fallen),
        *([] if fallen else [f"It falls behind by more than is tolerated in none of {len(found['slices'])} slices."]),
    ]
    return Comparison(low > 0 and not fallen, reason, words, found)


def _fallen(name: str, row: Mapping[str, Any], rules: PromoteParams) -> str:
    """A text if the candidate is significantly below the champion and by more than is tolerated; else empty.

    A slice with too few requests or users is not judged, as the whole is not: the interval of one user is a point.
    """
    key = f"candidate_minus_champion_{METRIC}"
    gain, low, high = row[key], row[f"{key}_low"], row[f"{key}_high"]
    limit = _tolerance(rules)[name]
    is_judged = row["requests_ranked"] >= rules.min_requests and row["users_ranked"] >= MIN_USERS
    if gain is None or high is None or not is_judged or gain >= -limit or high >= 0:
        return ""
    return f"in {name} by {-gain:.4f} ({low:+.4f} to {high:+.4f}; promote.tolerance.{name} is {limit:g})"


def _tolerance(rules: PromoteParams) -> dict[str, float]:
    return rules.tolerance.model_dump()


def _too_few(requests: Requests, rules: PromoteParams) -> str | None:
    ranked = rankable(requests)
    users = len(np.unique(requests.user_index[ranked]))
    if ranked.sum() >= rules.min_requests and users >= MIN_USERS:
        return None
    return (
        f"only {int(ranked.sum()):,} of the {len(requests):,} requests that neither was trained or chosen on can be "
        f"ranked, of {users:,} users, but promote.min_requests is {rules.min_requests:,} and at least {MIN_USERS} "
        "users are needed; wait for more data, or lower split.test and `make run`"
    )


def _describe(requests: Requests) -> dict[str, Any]:
    ranked = rankable(requests)
    return {
        "num_requests": len(requests),
        "num_requests_ranked": int(ranked.sum()),
        "num_users_ranked": len(np.unique(requests.user_index[ranked])),
        "from": iso(int(requests.at[0])),
        "to": iso(int(requests.at[-1])),
    }
