"""The check of what is served: it is the champion's, it says what the command found, and no other job runs it."""

import sys
from pathlib import Path

import dagster as dg
import pytest
from dvc.repo import Repo

from orchestration.definitions import build_definitions
from orchestration.drift import NAME, REQUEST_LOG, build_drift_check
from orchestration.promotion import CHAMPION
from tests.orchestration.conftest import ROOT

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Dagster's words about itself

LOOKED = """
import json, sys
from pathlib import Path
figures = [{{"name": f"figure{{number}}", "psi": number / 10}} for number in range(8)]
told = {{"figures": figures, "sentence": f"{sentence}", "state": "{state}", "num_requests": {num}}}
Path("reports/simulator").mkdir(parents=True)
Path("reports/simulator/drift.json").write_text(json.dumps(told))
sys.exit({status})
"""
DRIFTED = LOOKED.format(sentence="No: {sys.argv[1]} has shifted.", state="warns", num=400, status=3)
STEADY = LOOKED.format(sentence="Yes: 8 of 8 figures are steady, none has shifted.", state="good", num=400, status=0)
FEW = LOOKED.format(sentence="12 rankings are too few to judge: 100 are needed.", state="", num=12, status=0)


def looked(root: Path, command: tuple[str, ...] | None = None, log: str | None = None) -> dg.ExecuteInProcessResult:
    check = build_drift_check(root, command) if command else build_drift_check(root)
    config = {"ops": {f"champion_{NAME}": {"config": {"log": log}}}} if log else {}
    job = dg.Definitions(
        assets=[dg.AssetSpec(CHAMPION)],
        asset_checks=[check],
        jobs=[dg.define_asset_job("look", selection=dg.AssetSelection.all_asset_checks())],
    )
    with dg.DagsterInstance.ephemeral() as instance:
        return job.resolve_job_def("look").execute_in_process(
            instance=instance, run_config=config, raise_on_error=False
        )


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    for name in ("params.yaml", "dvc.yaml"):
        (tmp_path / name).write_text((ROOT / name).read_text())
    Repo.init(str(tmp_path), no_scm=True).close()
    return tmp_path


def test_it_is_a_check_of_the_champion_which_its_own_job_alone_runs() -> None:
    repository = build_definitions(ROOT).get_repository_def()
    key = dg.AssetCheckKey(CHAMPION, NAME)
    running = {
        job.name for job in repository.get_all_jobs() if not job.name.startswith("__")
        if key in job.asset_layer.asset_graph.asset_check_keys
    }  # fmt: skip
    assert running == {"drift"}
    assert [each.job_name for each in repository.schedule_defs if each.name == "daily_drift"] == ["drift"]


def test_without_a_request_log_drift_is_not_judged_and_the_error_says_what_to_do(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(REQUEST_LOG, raising=False)
    (found,) = looked(repository).get_asset_check_evaluations()
    assert not found.passed
    assert found.severity == dg.AssetCheckSeverity.WARN
    assert found.metadata["judged"].value is False
    assert REQUEST_LOG in (found.description or "")


def test_too_few_rankings_are_a_warning_that_says_so_and_no_green_check(repository: Path) -> None:
    (found,) = looked(repository, (sys.executable, "-c", FEW), "asked").get_asset_check_evaluations()
    assert not found.passed
    assert found.severity == dg.AssetCheckSeverity.WARN
    assert found.metadata["judged"].value is False
    assert found.description == "Not judged: 12 rankings are too few to judge: 100 are needed."


def test_steady_traffic_passes(repository: Path) -> None:
    (found,) = looked(repository, (sys.executable, "-c", STEADY), "asked").get_asset_check_evaluations()
    assert found.passed
    assert found.metadata["judged"].value is True


def test_a_shift_is_a_warning_with_the_figures_and_the_page(repository: Path) -> None:
    (found,) = looked(repository, (sys.executable, "-c", DRIFTED), "asked").get_asset_check_evaluations()
    assert not found.passed
    assert found.severity == dg.AssetCheckSeverity.WARN
    assert found.description == "No: asked has shifted."
    assert {key for key in found.metadata if key.startswith("psi")} == {f"psi figure{number}" for number in range(3, 8)}
    assert str(found.metadata["page"].value).endswith("reports/simulator/drift.html")


def test_a_folder_without_a_log_fails_with_the_commands_own_words(repository: Path, tmp_path: Path) -> None:
    """The real command."""
    done = looked(repository, log=str(tmp_path / "nothing"))
    (failure,) = [event.step_failure_data for event in done.all_events if event.is_step_failure]
    assert "has no request log. Serve with LEITMOTIF_REQUEST_LOG=" in failure.user_failure_data.description
    assert not list(repository.glob("reports/*/drift.json"))
    assert not done.success
