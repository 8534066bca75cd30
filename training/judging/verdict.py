"""Figures of the test part -> a verdict by absolute rules: may the served model be packaged, and why (not)."""

from collections.abc import Mapping
from typing import Any

from training.judging.standing import BASELINES, CANDIDATE, SIMPLE, around, name_of, of_other
from training.model.params import EvaluateParams

PASSED, FAILED, NOT_JUDGED = "passed", "failed", "not judged"
MIN_USERS = 10
"""Intervals resample users; with fewer users than this they mean nothing."""

Figures = Mapping[str, float]


def judge(
    served: str,
    models: Mapping[str, Figures],
    differences: Mapping[str, Figures],
    test: Mapping[str, int],
    parity: Mapping[str, Any] | None,
    rules: EvaluateParams,
) -> dict[str, Any]:
    """{state, passed, reasons}: state is passed, failed or not judged; `passed` is true only for state passed.

    models: figures by name, nan where undefined. differences: "<served>_minus_<other>" for every other model, with
    intervals. test: num_requests, num_requests_ranked (those that can be ranked) and num_users_ranked (their users).
    parity: the parity report of materialize, None if absent. A model that is not judged may be packaged.
    """
    if parity and parity["mismatches"]:
        return _verdict(
            FAILED, [f"{parity['mismatches']} of {parity['checked']} online features differ from the offline ones"]
        )
    if why := _too_little(test, rules):
        return _verdict(NOT_JUDGED, [why])
    against = {name: differences[f"{served}_minus_{name}"] for name in models if name != served}
    failures = _against_chance(served, models, against["random"])
    failures += _against_popularity(served, models, against["popularity"], rules)
    failures += [
        f"{of_other(served, name, models, against[name])}: significantly worse, so it is not to be served"
        + _advice(served, name)
        for name in against
        if name not in SIMPLE and name != "random" and is_worse(against[name])
    ]
    failures += _probabilities(served, models[served], against["random"], rules)
    return _verdict(FAILED if failures else PASSED, failures)


def is_worse(difference: Figures) -> bool:
    """Whether the intervals of a difference say that the first of the two ranks worse.

    It does if iAUC is significantly lower, or AUC is and iAUC is not significantly higher.
    """
    return difference["iauc_high"] < 0 or (difference["auc_high"] < 0 and not difference["iauc_low"] > 0)


def _too_little(test: Mapping[str, int], rules: EvaluateParams) -> str | None:
    """Why the test part is too small to judge on; None if it is large enough."""
    ranked, users = test["num_requests_ranked"], test["num_users_ranked"]
    of = f"{ranked:,} of {test['num_requests']:,} test requests can be ranked (they hold a click and an item without)"
    if ranked < rules.min_requests:
        return f"{of}; evaluate.min_requests is {rules.min_requests:,}"
    if users < MIN_USERS:
        return f"{of}, of {users:,} users; intervals over users need at least {MIN_USERS}"
    return None


def _against_chance(served: str, models: Mapping[str, Figures], difference: Figures) -> list[str]:
    if difference["iauc_low"] > 0:
        return []
    low, high = difference["iauc_low"] + models["random"]["iauc"], difference["iauc_high"] + models["random"]["iauc"]
    return [
        f"{name_of(served)} is not shown to order a request better than chance: iAUC {models[served]['iauc']:.4f}, "
        f"95 % interval {low:.4f} to {high:.4f}, chance .5. Check that source.columns.label tells what users chose; "
        "more requests narrow the interval"
    ]


def _against_popularity(
    served: str, models: Mapping[str, Figures], difference: Figures, rules: EvaluateParams
) -> list[str]:
    if difference["auc_low"] > rules.min_auc_over_popularity:
        return []
    return [
        f"{name_of(served)} is not shown to be better than popularity: AUC {models[served]['auc']:.4f} against "
        f"{models['popularity']['auc']:.4f}, {around('auc', difference)}; the lower bound must exceed "
        f"evaluate.min_auc_over_popularity, {rules.min_auc_over_popularity}"
    ]


def _probabilities(served: str, figures: Figures, to_chance: Figures, rules: EvaluateParams) -> list[str]:
    """Whether the scores are calibrated. Not judged where the limit is 1, as for ranking losses.

    The expected error of true probabilities on as few rows (calibration_noise) is allowed on top of the limit.
    """
    limit = rules.max_calibration_error
    if limit >= 1:
        return []
    failures, noise = [], figures["calibration_noise"]
    if figures["calibration_error"] > limit + noise:
        failures.append(
            f"{name_of(served)} has a calibration error of {figures['calibration_error']:.4f}, of which chance "
            f"explains {noise:.4f}; evaluate.max_calibration_error is {limit}"
        )
    if to_chance["logloss_low"] > 0:
        failures.append(
            f"{name_of(served)} has a higher logloss than the share of clicks as a constant, by "
            f"{around('logloss', to_chance)}: its scores are no probabilities"
        )
    return failures


def _advice(served: str, other: str) -> str:
    if other in BASELINES:
        return ""
    wanted = "best" if served == CANDIDATE else "candidate"
    return f". evaluate.serve={wanted} " + (
        "serves the one that the validation part chooses" if wanted == "best" else f"serves {name_of(CANDIDATE)}"
    )


def _verdict(state: str, reasons: list[str]) -> dict[str, Any]:
    return {"state": state, "passed": state == PASSED, "reasons": reasons}
