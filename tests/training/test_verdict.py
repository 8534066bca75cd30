"""The absolute rules, the choice of the served model, and its comparison with the others."""

import pytest
from pydantic import ValidationError

from training.judging.standing import choose, standing, warnings
from training.judging.verdict import MIN_USERS, judge
from training.model.params import EvaluateParams

RULES = EvaluateParams(
    serve="best",
    popularity_window_s=None,
    min_requests=200,
    min_auc_over_popularity=0.01,
    max_calibration_error=0.1,
    ndcg_at=10,
    num_bootstrap=20,
)
TEST = {"num_requests": 500, "num_requests_ranked": 400, "num_users_ranked": 60}
MODELS = {
    "mos": {"auc": 0.7, "iauc": 0.65, "calibration_error": 0.05, "calibration_noise": 0.005},
    "din": {"auc": 0.69, "iauc": 0.64, "calibration_error": 0.02, "calibration_noise": 0.005},
    "popularity": {"auc": 0.6, "iauc": 0.58, "calibration_error": 0.02, "calibration_noise": 0.005},
    "random": {"auc": 0.5, "iauc": 0.5, "calibration_error": 0.0, "calibration_noise": 0.005},
}


def between(auc=(0.05, 0.15), iauc=(0.05, 0.15), logloss=(-0.1, -0.05)):
    """A difference with its interval, the point in the middle."""
    row = {}
    for name, (low, high) in (("auc", auc), ("iauc", iauc), ("logloss", logloss)):
        row |= {name: (low + high) / 2, f"{name}_low": low, f"{name}_high": high}
    return row


def verdict(served="mos", parity=None, rules=RULES, test=TEST, models=MODELS, **against):
    differences = {f"{served}_minus_{name}": between() for name in models if name != served}
    differences |= {f"{served}_minus_{name}": row for name, row in against.items()}
    return judge(served, models, differences, test, parity, rules)


def test_a_model_that_satisfies_every_rule_passes():
    assert verdict(parity={"checked": 9, "mismatches": 0}) == {"state": "passed", "passed": True, "reasons": []}


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        (
            {"popularity": between(auc=(-0.076, 0.080))},
            "not shown to be better than popularity",
        ),  # the coin flips
        ({"popularity": between(auc=(0.009, 0.3))}, "evaluate.min_auc_over_popularity, 0.01"),  # the point is above
        ({"random": between(iauc=(-0.02, 0.05))}, "not shown to order a request better than chance: iAUC 0.6500"),
        ({"random": between(iauc=(0.0, 0.0))}, "chance"),  # as a constant score
        ({"din": between(iauc=(-0.0049, -0.0031))}, "MoS ranks worse than DIN within a request"),  # EB-NeRD's
        ({"din": between(auc=(-0.08, -0.03), iauc=(-0.01, 0.01))}, "no better and no worse than DIN within a request"),
        ({"popularity": between(iauc=(-0.2, -0.1))}, "MoS ranks worse than popularity within a request"),
        (
            {"rules": RULES.model_copy(update={"max_calibration_error": 0.04})},
            "calibration error of 0.0500, of which chance explains 0.0050; evaluate.max_calibration_error is 0.04",
        ),
        ({"random": between(logloss=(0.001, 0.02))}, "a higher logloss than the share of clicks as a constant"),
        ({"parity": {"checked": 9, "mismatches": 2}}, "2 of 9 online features"),
    ],
)
def test_the_rules(changes, reason):
    found = verdict(**changes)
    assert (found["state"], found["passed"]) == ("failed", False)
    assert reason in "; ".join(found["reasons"])


@pytest.mark.parametrize(
    "interval",
    [
        between(auc=(-0.01, 0.01), iauc=(-0.01, 0.01)),  # a tie
        between(auc=(-0.08, -0.03), iauc=(0.01, 0.02)),  # worse over all, better where it counts
        between(auc=(0.03, 0.08), iauc=(-0.01, 0.002)),
    ],
)
def test_a_model_that_is_not_shown_to_be_worse_passes(interval):
    assert verdict(din=interval)["state"] == "passed"


def test_calibration_errors_of_chance_pass_and_models_that_only_rank_are_not_judged_as_probabilities():
    within_noise = RULES.model_copy(update={"max_calibration_error": 0.046})
    assert verdict(rules=within_noise)["state"] == "passed"
    ranks_only = RULES.model_copy(update={"max_calibration_error": 1.0})
    assert verdict(rules=ranks_only, random=between(logloss=(0.001, 0.02)))["state"] == "passed"


def test_any_fitted_model_that_ranks_better_forbids_serving_and_a_simple_one_warns():
    models = MODELS | {"sdim": MODELS["din"], "trees": MODELS["din"]}
    worse = between(iauc=(-0.03, -0.02))
    assert "MoS ranks worse than SDIM" in verdict(models=models, sdim=worse)["reasons"][0]
    assert verdict(models=models, trees=worse)["state"] == "passed"
    differences = {f"mos_minus_{name}": between() for name in models} | {"mos_minus_trees": worse}
    assert "gradient-boosted trees on the counters alone" in warnings("mos", models, differences)[0]


def test_the_fallback_is_judged_by_the_same_rules():
    assert verdict("din")["state"] == "passed"
    worse = verdict("din", mos=between(iauc=(-0.03, -0.02)))
    assert "DIN ranks worse than MoS" in worse["reasons"][0]
    assert "evaluate.serve=candidate serves MoS" in worse["reasons"][0]


@pytest.mark.parametrize(
    ("test", "reason"),
    [
        (
            {"num_requests": 5153, "num_requests_ranked": 27, "num_users_ranked": 20},
            "27 of 5,153 test requests can be ranked",
        ),
        ({"num_requests": 0, "num_requests_ranked": 0, "num_users_ranked": 0}, "0 of 0 test requests"),
        ({"num_requests": 900, "num_requests_ranked": 900, "num_users_ranked": MIN_USERS - 1}, "of 9 users"),
    ],
)
def test_a_model_that_cannot_be_judged_does_not_pass(test, reason):
    found = verdict(test=test, random=between(iauc=(float("nan"), float("nan"))))
    assert (found["state"], found["passed"]) == ("not judged", False)
    assert reason in found["reasons"][0]


def test_an_online_difference_fails_the_verdict_even_if_nothing_else_is_judged():
    assert verdict(parity={"checked": 9, "mismatches": 1}, test=TEST | {"num_requests_ranked": 0})["state"] == "failed"


@pytest.mark.parametrize(
    ("mos", "din", "serve", "served", "said"),
    [
        (0.7675, 0.7715, "best", "din", "DIN is served: its iAUC on the validation part was 0.7715 (MoS 0.7675)."),
        (0.7715, 0.7675, "best", "mos", "MoS is served: its iAUC on the validation part was 0.7715 (DIN 0.7675)."),
        (0.7, 0.7, "best", "din", "0.7000 (MoS 0.7000) and it costs less."),
        (0.6, 0.7, "candidate", "mos", "because evaluate.serve is candidate"),
        (None, None, "best", "mos", "nothing to choose by"),
    ],
)
def test_the_validation_part_chooses_what_is_served(mos, din, serve, served, said):
    name, because = choose({"mos": {"iauc": mos}, "din": {"iauc": din}}, serve)
    assert name == served
    assert said in because


def test_one_sentence_per_model_compares_it_with_the_served_one():
    differences = {
        "mos_minus_din": between(auc=(-0.068, -0.05), iauc=(-0.01, 0.01)),
        "mos_minus_popularity": between(),
        "mos_minus_random": between(auc=(-0.1, 0.1), iauc=(-0.1, 0.1)),
    }
    assert standing("mos", "So it is.", MODELS, differences, TEST) == [
        "So it is.",
        "MoS ranks no better and no worse than DIN within a request, and worse over all requests "
        "(iAUC 0.6500 against 0.6400, +0.0000 (-0.0100 to +0.0100); AUC 0.7000 against 0.6900, -0.0590 (-0.0680 to "
        "-0.0500)).",
        "MoS ranks better than popularity "
        "(iAUC 0.6500 against 0.5800, +0.1000 (+0.0500 to +0.1500); AUC 0.7000 against 0.6000, +0.1000 (+0.0500 to "
        "+0.1500)).",
        "MoS ranks no better and no worse than chance, as far as these requests tell "
        "(iAUC 0.6500 against 0.5000, +0.0000 (-0.1000 to +0.1000); AUC 0.7000 against 0.5000, +0.0000 (-0.1000 to "
        "+0.1000)).",
    ]
    nothing = standing("mos", "So it is.", MODELS, differences, {"num_requests": 3, "num_requests_ranked": 0})
    assert nothing[1] == "None of the 3 test requests can be ranked: nothing can be compared."


def test_a_simple_model_that_ranks_better_is_a_warning():
    models = MODELS | {"logistic": MODELS["din"]}
    differences = {f"mos_minus_{name}": between() for name in models}
    assert warnings("mos", models, differences) == []
    differences["mos_minus_logistic"] = between(iauc=(-0.03, -0.01))
    assert (
        "MoS ranks worse than a logistic regression on the counters alone within a request"
        in warnings("mos", models, differences)[0]
    )
    assert verdict(models=models, logistic=differences["mos_minus_logistic"])["state"] == "passed"


@pytest.mark.parametrize("change", [{"num_bootstrap": 1}, {"serve": "din"}, {"popularity_window_s": 10**13}])
def test_rules_that_cannot_judge_are_refused(change):
    with pytest.raises(ValidationError):
        EvaluateParams.model_validate(RULES.model_dump() | change)
