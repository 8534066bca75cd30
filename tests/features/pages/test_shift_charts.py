"""Names beside lines lie beside their lines, and never over one another; strips of sessions have one scale."""

import re

import numpy as np
import pytest

from features.pages.shift_charts import LINE_HIGH, apart, models, returns, svg
from features.pages.strips import strips


@pytest.mark.parametrize("seed", range(50))
def test_places_are_in_order_apart_and_as_near_as_can_be(seed: int) -> None:
    random = np.random.default_rng(seed)
    values = np.sort(random.random(random.integers(1, 8)))
    least = float(random.choice([0.0, 0.05, 0.3]))
    places = np.array(apart(values.tolist(), least))
    assert (np.diff(places) >= least - 1e-12).all()
    if (np.diff(values) >= least).all():
        np.testing.assert_allclose(places, values)
    for _ in range(200):  # no other places that are apart are nearer by squares
        other = np.sort(places + random.normal(scale=0.1, size=len(places)))
        other = np.maximum.accumulate(other - np.arange(len(other)) * least) + np.arange(len(other)) * least
        assert ((places - values) ** 2).sum() <= ((other - values) ** 2).sum() + 1e-12


def test_names_of_models_that_end_alike_can_be_read() -> None:
    ends = {"mos": 0.81, "logistic": 0.7801, "trees": 0.78, "din": 0.7799, "popularity": None}
    rows = [{"model": name, "since_shift": n, "auc": auc} for name, auc in ends.items() for n in (0, 1)]
    drawn = svg(models(rows), "AUC", "by requests")
    found = re.findall(r'<text [^>]*transform="translate\([\d.]+,([\d.]+)\)"[^>]*>(mos|logistic|trees|din)<', drawn)
    at = {name: float(y) for y, name in found}
    assert sorted(at, key=lambda name: at[name]) == ["mos", "logistic", "trees", "din"]
    assert np.diff(sorted(at.values())).min() >= LINE_HIGH - 0.6


@pytest.mark.parametrize("shuffled", [0.64, 0.61, 0.599, 0.59, 0.3])
def test_both_curves_of_returning_themes_are_named_apart(shuffled: float) -> None:
    row = {"rate": 0.6, "low": 0.58, "high": 0.62, "shuffled": shuffled}
    drawn = svg(returns([row | {"lag_days": day} for day in range(1, 5)]), "returns", "by day")
    found = re.findall(r'<text [^>]*transform="translate\([\d.]+,([\d.]+)\)"[^>]*>(this log|shuffled)<', drawn)
    at = {name: float(y) for y, name in found}
    assert abs(at["this log"] - at["shuffled"]) >= 12  # pixels, the height of a name
    assert (at["this log"] < at["shuffled"]) == (shuffled < 0.6)


def test_equal_numbers_of_events_are_equally_wide_in_every_strip() -> None:
    sessions = {"A": [(0, 9, 1)], "B": [(0, 9, 1), (None, 400, 2)] * 8}
    report = {
        "themes": ["films"],
        "strips": [{"name": name, "hop_rate": 0.5, "sessions": each} for name, each in sessions.items()],
    }
    drawn = strips(report)
    boxes = re.findall(r'viewBox="([^"]+)"', drawn)
    assert len(boxes) == 2
    assert len(set(boxes)) == 1
    assert len(set(re.findall(r'width="([\d.]+)"[^>]*><title>day 1:', drawn))) == 1
    last = max(float(at) + float(wide) for at, wide in re.findall(r'<rect x="([\d.]+)" width="([\d.]+)"', drawn))
    assert last <= float(boxes[0].split()[2])
