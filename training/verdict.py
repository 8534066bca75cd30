"""Figures of the test part -> whether the model may be packaged, by absolute rules, and why (not)."""

import math
from collections.abc import Mapping
from typing import Any

from training.params import EvaluateParams


def judge(
    models: Mapping[str, Mapping[str, float]],
    num_requests: int,
    parity: Mapping[str, Any] | None,
    rules: EvaluateParams,
) -> dict[str, Any]:
    """{passed, reasons}. models: figures by name, nan where not defined; parity: materialize's, None where absent.

    Fewer test requests than rules.min_requests are not judged: they pass, and the reason says so.
    """
    mos, popularity = models["mos"], models["popularity"]
    failures = []
    if parity and parity["mismatches"]:
        failures.append(f"{parity['mismatches']} of {parity['checked']} online features differ from the offline ones")
    if num_requests and not math.isfinite(mos["logloss"]):
        failures.append("mos gives scores that are not finite")
    if failures:
        return {"passed": False, "reasons": failures}
    if num_requests < rules.min_requests:
        return _passed(f"not judged: {num_requests} test requests, evaluate.min_requests is {rules.min_requests}")
    if not math.isfinite(mos["auc"]):
        return _passed("not judged: the test requests hold one class only")
    gain = mos["auc"] - popularity["auc"]
    if not gain > rules.min_auc_over_popularity:
        failures.append(
            f"mos has AUC {mos['auc']:.4f}, popularity {popularity['auc']:.4f}: {gain:+.4f}, "
            f"evaluate.min_auc_over_popularity is {rules.min_auc_over_popularity}"
        )
    if mos["calibration_error"] > rules.max_calibration_error:
        failures.append(
            f"mos has a calibration error of {mos['calibration_error']:.4f}, "
            f"evaluate.max_calibration_error is {rules.max_calibration_error}"
        )
    return {"passed": not failures, "reasons": failures}


def _passed(reason: str) -> dict[str, Any]:
    return {"passed": True, "reasons": [reason]}
