"""Few figures of a report are compared between runs; the report itself stays whole."""

import json
from pathlib import Path

from contracts.figures import write_figures
from contracts.publish import write_report

REPORT = {
    "models": {"mos": {"auc": 0.8, "iauc": 0.7, "logloss": 0.5, "gauc": 0.1}, "din": {"auc": 0.6}},
    "slices": {"cold": {"mos_auc": 0.1}},
    "verdict": {"passed": True, "reasons": []},
}


def test_the_figures_of_a_stage_are_those_that_people_compare(tmp_path: Path) -> None:
    write_figures(tmp_path / "evaluate.json", "evaluate", REPORT)
    assert json.loads((tmp_path / "evaluate.json").read_text()) == {
        "mos": {"auc": 0.8, "iauc": 0.7, "logloss": 0.5},
        "din": {"auc": 0.6},
        "verdict": {"passed": True},
    }
    write_figures(tmp_path / "toy.json", "toy", REPORT)
    assert not (tmp_path / "toy.json").exists()


def test_an_empty_list_in_a_report_is_null_and_everything_else_is_as_it_was(tmp_path: Path) -> None:
    write_report(tmp_path / "r.json", {**REPORT, "full": [[], {}]})
    assert json.loads((tmp_path / "r.json").read_text()) == {
        **REPORT,
        "verdict": {"passed": True, "reasons": None},
        "full": [[], {}],
    }
