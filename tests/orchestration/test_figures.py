"""Reports become Dagster metadata, and checks judge what reports say."""

import re
from pathlib import Path
from urllib.parse import unquote

import dagster as dg
import pytest

from orchestration.checks import CHECKS, JUDGED, Check, checks_of, judge
from orchestration.configure import EXPECTATIONS
from orchestration.figures import LARGEST, SERVED_AT, figures, metadata, table
from orchestration.graph import Out, Stage
from orchestration.plots import BLUE, GROUND, ORANGE
from orchestration.versions import Made
from tests.clones import ROOT


def _check(name: str, out: str) -> Check:
    return next(check for check in CHECKS if (check.out, check.name) == (out, name))


def test_numbers_stay_numbers_and_a_small_object_is_a_line() -> None:
    shown = figures({"rows": 3, "share": 0.5, "ok": True, "dropped": {"late": 1}, "note": "n", "none": None, "no": {}})
    assert {key: value.value for key, value in shown.items()} == {
        "rows": 3,
        "share": 0.5,
        "ok": True,
        "dropped": "late: 1",
        "note": "n",
    }


def test_an_object_of_objects_is_a_table() -> None:
    text = table({"mos": {"auc": 0.71234, "n|m": 3}, "din": {"auc": None}})
    assert text.splitlines() == [
        "|  | auc | n|m |",
        "| --- | --- | --- |",
        "| mos | 0.7123 | 3 |",
        "| din |  |  |",
    ]


def test_a_small_number_is_not_shown_as_nothing() -> None:
    text = table({"late": {"value": 0.00004, "limit": 1e-05, "none": 0.0, "below": -0.0002, "share": 0.001}})
    assert text.splitlines()[2] == "| late | 4e-05 | 1e-05 | 0 | -0.0002 | 0.001 |"


def test_the_page_of_an_output_is_a_link_though_its_report_names_it_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(SERVED_AT, "http://127.0.0.1:3002")
    out = Out("quality", "data/shop/quality", "")
    stage = Stage("describe", "", "exec python -m x", (), (), (), (out,), "reports/shop/describe.json")
    (tmp_path / "reports/shop").mkdir(parents=True)
    (tmp_path / "reports/shop/describe.json").write_text('{"page": "reports/shop/quality.html", "rows_read": 3}')
    shown = metadata(tmp_path, Made(stage, stage.cmd, {"quality": "1"}, {"quality": 7}, {}), "quality")
    assert shown["page"] == dg.MetadataValue.url("http://127.0.0.1:3002/shop/quality.html")
    assert (shown["rows_read"].value, shown["size_bytes"].value) == (3, 7)


def test_a_large_table_is_left_in_the_report() -> None:
    large = {"slices": {str(row): {"auc": 0.5} for row in range(LARGEST + 1)}}
    assert set(figures({"models": {"mos": {"auc": 0.7}}})) == {"models"}
    assert not figures(large)


def test_the_table_has_dvc_s_metrics_of_all_models_and_the_served_one_is_plotted_over_time() -> None:
    models = {name: {"auc": auc, "gauc": 0.1} for name, auc in (("mos", 0.75), ("din", 0.5))}
    shown = figures({"models": models, "served": "mos"}, "evaluate")
    assert "gauc" not in str(shown["models"].value).replace("iauc", "")
    assert shown["models.mos.auc"].value == 0.75
    assert "models.din.auc" not in shown
    picture = unquote(str(shown["AUC by model"].value))
    heights = {colour: GROUND - int(top) for top, colour in re.findall(r"V(\d+)' stroke='(\S+)'", picture)}
    assert heights[BLUE] / heights[ORANGE] == pytest.approx(0.5 / 0.75, abs=0.02)


def test_lists_of_texts_are_bullets_and_other_lists_are_left_out() -> None:
    assert figures({"reasons": ["too low", "too few"]})["reasons"].value == "- too low\n- too few"
    assert figures({"reasons": [], "windows": [1, 2]}) == {}


def test_a_group_of_expectations_that_validate_has_not_judged_yet_warns_and_says_so(tmp_path: Path) -> None:
    file = tmp_path / EXPECTATIONS
    file.parent.mkdir(parents=True)
    file.write_text("bots: [{}]\n")
    (check,) = [each for each in checks_of(tmp_path, JUDGED) if each.name == "expectations_bots"]
    verdict = judge(check, {"expectations": {"volume": {}}})
    assert (verdict.passed, verdict.warns) == (False, True)
    assert "not judged" in verdict.description


def test_a_group_of_expectations_says_its_counts_and_what_failed(tmp_path: Path) -> None:
    file = tmp_path / EXPECTATIONS
    file.parent.mkdir(parents=True)
    file.write_text("bots: [{}]\n")
    (check,) = [each for each in checks_of(tmp_path, JUDGED) if each.name == "expectations_bots"]
    told = {"num": 4, "critical": 0, "warning": 1, "held_back": {"late": 5, "early": 2}, "failed": ["too many clicks"]}
    verdict = judge(check, {"expectations": {"bots": told}})
    assert (verdict.passed, verdict.warns) == (False, True)
    assert "too many clicks" in verdict.description
    assert verdict.figures == {"expectations": 4, "critical": 0, "warnings": 1, "rows that break a rule": 7}
    assert not judge(check, {"expectations": {"bots": {**told, "critical": 1}}}).warns


def test_a_group_of_expectations_says_what_it_expects() -> None:
    said = {check.name: check.description for check in checks_of(ROOT, JUDGED)}
    assert said["expectations_users"] == (
        "Expected: nobody does more within a minute than a person can; no user makes up a large part of a partition."
    )
    assert said["expectations_values"] == "Rows that break a rule on values are held back and counted here."
    assert all(said.values())


def test_rows_that_do_not_add_up_fail() -> None:
    check = _check("rows_add_up", "interactions")
    assert judge(check, {"rows_read": 5, "rows_written": 3, "dropped": {"late": 2}}).passed
    assert not judge(check, {"rows_read": 5, "rows_written": 3, "dropped": {"late": 1}}).passed


def test_valid_quarantined_and_duplicated_rows_are_all_rows() -> None:
    check = _check("rows_add_up", "validated_interactions")
    report = {"rows_in": 9, "rows_valid": 6, "rows_quarantined": 2, "rows_duplicated": 1}
    report |= {"num_expectations": 19, "failed_expectations": None, "quarantined_by_reason": {"label missing": 2}}
    assert judge(check, report).passed
    assert not judge(check, report | {"rows_in": 10}).passed


def test_no_parity_check_at_all_is_not_parity() -> None:
    check = _check("online_equals_offline", "feature_snapshot")
    assert judge(check, {"parity": {"checked": 5, "mismatches": 0}}).passed
    assert not judge(check, {"parity": {"checked": 0, "mismatches": 0}}).passed
    assert not judge(check, {"parity": {"checked": 5, "mismatches": 1}}).passed


def test_a_report_without_its_figures_fails_and_says_which() -> None:
    verdict = judge(_check("model_is_good_enough", "metrics"), {})
    assert not verdict.passed
    assert "verdict" in verdict.description
