"""Every other command of the README, typed in a clone in which the small pipeline has run."""

import json
import shutil
import subprocess
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import sync_playwright

from contracts.params import load_params
from tests.doors.conftest import free_port, started, typed
from tests.doors.test_ui import CHROMIUM
from tests.features.ebnerd_bundle import write_bundle
from tests.features.test_movielens import write as write_movielens

pytestmark = pytest.mark.xdist_group("door-commands")


def audit(house: Path) -> int:
    return load_params(house / "params.yaml")["audit"].min_session_events


def test_help_lists_every_target_and_doctor_finds_nothing_missing(house: Path) -> None:
    listed = typed(house, "make help").stdout
    assert {f"make {target}" for target in ("run", "ui", "serve", "docs", "bento", "forget")} <= {
        " ".join(line.split()[:2]) for line in listed.splitlines()
    }
    assert "MISSING" not in typed(house, "make doctor").stdout


def test_dvc_has_nothing_to_do_after_make_run(house: Path) -> None:
    assert "up to date" in typed(house, "dvc status").stdout
    assert "Running stage" not in typed(house, "dvc repro").stdout
    assert "0 of 9 stages ran" in typed(house, "make run").stdout


def test_a_parameter_is_set_run_as_an_experiment_and_compared(house: Path) -> None:
    subprocess.run(["git", "add", "-A"], cwd=house, check=True)
    who = ["-c", "user.name=test", "-c", "user.email=test@localhost"]
    subprocess.run(["git", *who, "commit", "-qm", "run"], cwd=house, check=True)
    before = audit(house)
    assert (
        f"audit.min_session_events: {before} -> {before + 1}"
        in typed(house, "make set", f"ARGS=audit.min_session_events={before + 1}").stdout
    )
    ran = typed(house, "dvc exp run -S", f"audit.min_session_events={before + 2}")
    assert "Running stage 'audit'" in ran.stdout + ran.stderr
    assert audit(house) == before + 2
    assert "audit.json" in typed(house, "dvc metrics diff").stdout
    assert "index.html" in typed(house, "dvc plots show").stdout


def test_data_docs_come_back_after_state_was_deleted(house: Path) -> None:
    docs = house / ".state/simulator/data_docs/index.html"
    shutil.rmtree(docs.parent)
    typed(house, "make docs")
    assert docs.exists()
    if not Path(CHROMIUM).exists():
        pytest.skip(f"no browser at {CHROMIUM}: apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page()
        page.goto(docs.as_uri(), wait_until="domcontentloaded")
        assert "interactions" in page.inner_text("body")
        browser.close()


def test_a_person_is_forgotten(house: Path) -> None:
    told = typed(house, "make forget USER=u00007").stdout
    assert "1 of 1 added to live/simulator/" in told
    assert "dvc gc --workspace" in told


def test_the_bundle_becomes_the_champion(house: Path) -> None:
    assert "Promoted" in typed(house, "make promote", "ARGS=--force").stdout
    assert (house / "champions/simulator.dvc").exists()
    assert "romoted" in typed(house, "make promote").stdout


def test_what_was_pushed_is_pulled_in_another_clone_and_nothing_is_run_again(house: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    subprocess.run(["cp", "-a", f"{house}/.", other], check=True)
    for repository in (house, other):
        assert "storage" in typed(repository, "make remote", f"URL={tmp_path / 'remote'}").stdout
    typed(house, "make push")
    shutil.rmtree(other / ".dvc/cache")
    shutil.rmtree(other / "data")
    typed(other, "make pull")
    assert (other / "data/simulator/bundle/bundle.json").exists()
    assert "up to date" in typed(other, "dvc status").stdout


def test_feast_shows_what_was_loaded(house: Path) -> None:
    typed(house, "feast -c features/repo apply")
    views = typed(house, "feast -c features/repo feature-views list").stdout
    assert {"user_history", "item_profile"} <= set(views.split())
    stamp = json.loads((house / "data/simulator/feature_snapshot/snapshot.json").read_text())
    typed(house, "feast -c features/repo materialize-incremental", stamp["log_end"][:19])
    port = free_port()
    with started(house, "feast -c features/repo ui", "--port", str(port), "--host", "127.0.0.1") as program:
        program.until(lambda: httpx.get(f"http://127.0.0.1:{port}/").status_code == 200, 200)
    assert "loaded snapshot" in typed(house, "make load").stdout


def test_other_logs_run_by_the_readmes_words_and_the_way_back_is_a_checkout(house: Path, tmp_path: Path) -> None:
    write_movielens(tmp_path / "ml", "7,1,4.0,789652009\n8,1,3.0,789652010\n", "1,Film,War\n")
    told = typed(house, "make run SOURCE=movielens", f"DATA={tmp_path / 'ml'}", "ARGS=ingest").stdout
    assert "rows_read 2, rows_written 2" in told
    told = typed(house, "make run SOURCE=ebnerd", f"DATA={write_bundle(tmp_path / 'eb')}", "ARGS=ingest").stdout
    assert "rows_read 4, rows_written 4" in told
    log = tmp_path / "log.csv"
    log.write_text("viewer,film,ts,liked,slot\nu,a,1700000000000,1,0\nu,b,1700000000000,0,1\n")
    columns = "source.time_unit=ms source.columns.user_id=viewer source.columns.item_id=film "
    columns += "source.columns.occurred_at=ts source.columns.label=liked source.columns.position=slot ingest"
    told = typed(house, "make run SOURCE=table", f"DATA={log}", f"ARGS={columns}").stdout
    assert "rows_read 2, rows_written 2" in told
    told = typed(house, "make run SOURCE=simulator", "ARGS=audit.min_session_events=2 ingest").stdout
    assert "0 of 9 stages ran" in told


def test_the_service_is_measured(house: Path) -> None:
    told = json.loads(typed(house, "python -m benchmarks.serving", "--requests", "3", "--candidates", "5").stdout)
    assert told["setting"]["requests"] == 3
    assert told["http"]["p50_ms"] > 0
