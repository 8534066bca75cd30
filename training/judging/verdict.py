"""Figures of the test part -> whether the served model may be packaged, by absolute rules, and why (not)."""

from collections.abc import Mapping
from typing import Any

from training.judging.standing import NAMES, around, of_other
from training.model.params import EvaluateParams

PASSED, FAILED, NOT_JUDGED = "passed", "failed", "not judged"
MIN_USERS = 10
"""The intervals draw users: of fewer, the draws are too alike to say anything."""

Figures = Mapping[str, float]


def judge(
    served: str,
    models: Mapping[str, Figures],
    differences: Mapping[str, Figures],
    test: Mapping[str, int],
    parity: Mapping[str, Any] | None,
    rules: EvaluateParams,
) -> dict[str, Any]:
    """{state, passed, reasons}: state is passed, failed or not judged; `passed` is true of the first alone.

    models: figures by name, nan where not defined. differences: "<served>_minus_<other>" of every other model, with
    intervals. test: num_requests, num_requests_ranked (those that can be) and num_users_ranked (theirs).
    parity: materialize's, None where absent. What is not judged may be packaged, and says that it was not judged.
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
        if name in NAMES and name != "random" and is_worse(against[name])
    ]
    if models[served]["calibration_error"] > rules.max_calibration_error:
        failures.append(
            f"{NAMES[served]} has a calibration error of {models[served]['calibration_error']:.4f}, "
            f"evaluate.max_calibration_error is {rules.max_calibration_error}"
        )
    return _verdict(FAILED if failures else PASSED, failures)


def is_worse(difference: Figures) -> bool:
    """Whether the interval of a difference says that the first of the two ranks worse.

    By iAUC, the order within a request that a service is asked for; or by AUC where it has not gained in iAUC.
    """
    return difference["iauc_high"] < 0 or (difference["auc_high"] < 0 and not difference["iauc_low"] > 0)


def _too_little(test: Mapping[str, int], rules: EvaluateParams) -> str | None:
    """Why the test part cannot say whether the model is good; None where it can."""
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
        f"{NAMES[served]} is not shown to order a request better than chance: iAUC {models[served]['iauc']:.4f}, 95 % "
        f"interval {low:.4f} to {high:.4f}, chance .5. Check that source.columns.label tells what users chose; more "
        "requests narrow the interval"
    ]


def _against_popularity(
    served: str, models: Mapping[str, Figures], difference: Figures, rules: EvaluateParams
) -> list[str]:
    if difference["auc_low"] > rules.min_auc_over_popularity:
        return []
    return [
        f"{NAMES[served]} is not shown to be better than popularity: AUC {models[served]['auc']:.4f} against "
        f"{models['popularity']['auc']:.4f}, {around('auc', difference)}; the lower bound must exceed "
        f"evaluate.min_auc_over_popularity, {rules.min_auc_over_popularity}"
    ]


def _advice(served: str, other: str) -> str:
    if other not in ("mos", "din"):
        return ""
    wanted = "best" if served == "mos" else "candidate"
    return f". evaluate.serve={wanted} " + (
        "serves the one that the validation part chooses" if wanted == "best" else "serves MoS"
    )


def _verdict(state: str, reasons: list[str]) -> dict[str, Any]:
    return {"state": state, "passed": state == PASSED, "reasons": reasons}
