"""Figures of the models -> which of them is served, and sentences that compare it with each of the others."""

import math
from collections.abc import Mapping

CANDIDATE = "mos"
BASELINES = {"popularity": "popularity", "random": "chance"}
SIMPLE = {
    "logistic": "a logistic regression on the counters alone",
    "trees": "gradient-boosted trees on the counters alone",
}
"""Simple models that are measured but never served: if one ranks better, that is a warning, not a refusal."""
FITTED = {
    "mos": "MoS",
    "din": "DIN",
    "twin": "TWIN",
    "sdim": "SDIM",
    "sasrec": "SASRec",
    "hstu": "HSTU",
    "stca": "STCA",
    "gap_chunk": "gap-chunk attention",
    "mmoe": "MMoE",
    "gshard": "GShard",
    "dselect": "DSelect-k",
    "expert_choice": "Expert Choice",
}
NAMES = BASELINES | SIMPLE | FITTED
"""Display names; a model that is not listed is shown by its own name."""

LEVEL = "no better and no worse"

Figures = Mapping[str, float]


def choose(validation: Mapping[str, Mapping[str, float | None]], serve: str) -> tuple[str, str]:
    """The model to serve, and a sentence that says why. The choice does not use the test part.

    validation: iAUC of the fitted models on the validation part, None where undefined. Of equals the one without
    themes is taken, since it costs less: MoS that gained nothing over its start (train.start) is the baseline itself.
    serve: evaluate.serve.
    """
    figures = {name: figures["iauc"] for name, figures in validation.items()}
    if serve == "candidate":
        return CANDIDATE, f"{name_of(CANDIDATE)} is served because evaluate.serve is candidate."
    measured = {name: value for name, value in figures.items() if value is not None}
    if len(measured) < len(figures):
        return CANDIDATE, (
            f"{name_of(CANDIDATE)} is served: no validation request could be ranked, so there was nothing to choose by."
        )
    best = max(measured, key=lambda name: (measured[name], name != CANDIDATE))
    others = ", ".join(f"{name_of(name)} {value:.4f}" for name, value in measured.items() if name != best)
    equal = " and it costs less" if list(measured.values()).count(measured[best]) > 1 else ""
    figure = f"{measured[best]:.4f} ({others})"
    return best, f"{name_of(best)} is served: its iAUC on the validation part was {figure}{equal}."


def standing(
    served: str,
    because: str,
    models: Mapping[str, Figures],
    differences: Mapping[str, Figures],
    test: Mapping[str, int],
) -> list[str]:
    """Sentences: what is served and why, and how it compares with each other model on the test part."""
    ranked = test["num_requests_ranked"]
    if not ranked:
        return [because, f"None of the {test['num_requests']:,} test requests can be ranked: nothing can be compared."]
    others = [
        f"{of_other(served, name, models, differences[f'{served}_minus_{name}'])}." for name in models if name != served
    ]
    return [because, *others]


def of_other(served: str, other: str, models: Mapping[str, Figures], difference: Figures) -> str:
    """A comparison of two models in words, with the figures of both and the interval of each difference."""
    figures = "; ".join(
        f"{label} {models[served][name]:.4f} against {models[other][name]:.4f}, {around(name, difference)}"
        for name, label in (("iauc", "iAUC"), ("auc", "AUC"))
    )
    return f"{name_of(served)} ranks {_word(difference, name_of(other))} ({figures})"


def around(name: str, difference: Figures) -> str:
    """A difference and its interval, as text."""
    return f"{difference[name]:+.4f} ({difference[f'{name}_low']:+.4f} to {difference[f'{name}_high']:+.4f})"


def warnings(served: str, models: Mapping[str, Figures], differences: Mapping[str, Figures]) -> list[str]:
    """Warnings that do not fail the verdict: simple models that rank better than the served one."""
    return [
        f"{of_other(served, name, models, difference)}: a simpler model would do better"
        for name in models
        if name in SIMPLE and (difference := differences[f"{served}_minus_{name}"])["iauc_high"] < 0
    ]


def name_of(model: str) -> str:
    """The display name of a model."""
    return NAMES.get(model, model)


def _word(difference: Figures, other: str) -> str:
    """Better, worse or neither, by the intervals of iAUC and AUC."""
    within, over_all = (_direction(difference[f"{name}_low"], difference[f"{name}_high"]) for name in ("iauc", "auc"))
    if within != over_all:
        return f"{within} than {other} within a request, and {over_all} over all requests"
    return f"{within} than {other}" + (", as far as these requests tell" if within == LEVEL else "")


def _direction(low: float, high: float) -> str:
    if math.isnan(low) or low <= 0 <= high:
        return LEVEL
    return "better" if low > 0 else "worse"
