"""Every other command of the README, typed in a clone in which the small pipeline has run."""

import json
import shutil
import subprocess
import time
from pathlib import Path

import httpx
import pyarrow.parquet as pq
import pytest
from playwright.sync_api import sync_playwright

from contracts.params import load_params
from tests.doors.conftest import free_port, started, typed
from tests.doors.test_ui import CHROMIUM
from tests.features.ebnerd_bundle import write_bundle
from tests.features.sources.test_movielens import write as write_movielens

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
    assert "0 of 11 stages ran" in typed(house, "make run").stdout


def test_a_page_comes_back_with_the_figures_it_shows(house: Path) -> None:
    page, before = house / "reports/simulator/shift.html", audit(house)
    made = page.read_bytes()
    typed(house, f"make set ARGS=audit.min_session_events={before + 4}")
    typed(house, "dvc repro audit")
    assert page.read_bytes() != made
    typed(house, f"make set ARGS=audit.min_session_events={before}")
    assert "is cached" in typed(house, "dvc repro audit").stdout
    assert page.read_bytes() == made


def test_a_service_gives_the_scores_of_evaluate(house: Path, tmp_path: Path) -> None:
    typed(house, "python -m benchmarks.served_scores", "--requests", "60", "--result", str(tmp_path / "scores.json"))
    told = json.loads((tmp_path / "scores.json").read_text())
    assert told["requests"] == 60
    assert told["scores"] >= 120
    assert told["largest_difference"] <= 1e-6


@pytest.mark.slow
def test_what_is_found_and_how_lists_turn_are_measured(house: Path, tmp_path: Path) -> None:
    typed(house, "python -m benchmarks.retrieval", "--requests", "5", "--out", str(tmp_path / "found.json"))
    found = json.loads((tmp_path / "found.json").read_text())
    assert 0 < found["ways"]["served"][0]["recall_of_clicks"] <= 1
    to = ("--out", str(tmp_path / "turned.json"), "--chart", str(tmp_path / "turned.svg"))
    typed(house, "python -m benchmarks.adaptation", "--users", "2", "--hours", "24", *to)
    turned = json.loads((tmp_path / "turned.json").read_text())
    assert {name: len(rows) for name, rows in turned["after_clicks"].items()} == {"mos": 4, "din": 4, "popularity": 4}
    assert "<svg" in (tmp_path / "turned.svg").read_text()


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


def test_a_sweep_is_queued_run_by_a_worker_and_compared(house: Path) -> None:
    before = audit(house)
    wanted = {f"sweep-{value}": value for value in (before + 5, before + 6)}
    for name, value in wanted.items():
        typed(house, "dvc exp run --queue", "--name", name, "-S", f"audit.min_session_events={value}", "audit")
    typed(house, "dvc queue start")
    limit = time.monotonic() + 300
    while (stands := typed(house, "dvc queue status").stdout).count("Success") < len(wanted):
        assert "Failed" not in stands, stands
        assert time.monotonic() < limit, stands
        time.sleep(2)
    baseline = json.loads(typed(house, "dvc exp show --json").stdout)[-1]
    params = {
        each["name"]: each["revs"][0]["data"]["params"]["params.yaml"]["data"] for each in baseline["experiments"]
    }
    assert {name: params[name]["audit"]["min_session_events"] for name in wanted} == wanted
    assert audit(house) == before, "a sweep leaves the working tree alone"


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
        page.goto(docs.as_uri())
        assert "rows 0 are held back in quarantine" in page.inner_text("body")
        assert page.get_by_role("link", name="whole log").count() == 1
        browser.close()


def test_the_bundle_becomes_the_champion(house: Path) -> None:
    assert "Promoted" in typed(house, "make promote", "ARGS=--force").stdout
    assert (house / "champions/simulator.dvc").exists()
    assert "romoted" in typed(house, "make promote").stdout
    back = typed(house, "make rollback", check=False)
    assert back.returncode == 2
    assert "keeps no former champion to go back to" in back.stderr


def test_the_model_is_exported_as_programs(house: Path) -> None:
    said = typed(house, "make export").stdout
    assert "golden requests differ by at most 0.0e+00" in said
    assert {path.name for path in (house / "exported/simulator").iterdir()} == {
        "user_side.pt2", "score.pt2", "tables.safetensors", "exported.json"}  # fmt: skip


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
    """Which views are applied, and that one can materialize further: tests/features/feast_store/test_feast_repo.py."""
    typed(house, "feast -c features/repo apply")
    port = free_port()
    with started(house, "feast -c features/repo ui", "--port", str(port), "--host", "127.0.0.1") as program:
        program.until(lambda: httpx.get(f"http://127.0.0.1:{port}/").status_code == 200, 200)
        projects = httpx.get(f"http://127.0.0.1:{port}/projects-list.json", timeout=30).json()["projects"]
    assert "leitmotif" in {name for project in projects for name in (project["id"], project["name"])}
    assert "loaded snapshot" in typed(house, "make load").stdout


def test_a_log_is_audited_alone_and_its_held_back_rows_are_mended(house: Path, tmp_path: Path) -> None:
    folder = tmp_path / "log"
    folder.mkdir()
    minutes = ((user, day, n) for user in range(12) for day in range(4) for n in range(6))
    rows = [
        f"u{user},i{5 * ((user + day) % 4) + n % 5},2024-01-0{day + 1}T{user + 8:02}:{n:02}:00Z,{int(n % 3 > 0)}"
        for user, day, n in minutes
    ]
    (folder / "day.csv").write_text("\n".join(["viewer,film,ts,liked", *rows, ",i3,2024-01-02T09:00:00Z,1", ""]))
    columns = "source.columns.user_id=viewer source.columns.item_id=film source.columns.occurred_at=ts "
    columns += "source.columns.label=liked source.time_unit=iso"
    told = typed(house, "make audit SOURCE=table", f"DATA={folder}", f"ARGS={columns}")
    assert "Running stage 'train'" not in told.stdout + told.stderr
    (page,) = (path.read_text() for path in (house / "reports").glob("log-*/shift.html"))
    assert "This page is about the log alone" in page
    (page,) = (path.read_text() for path in (house / "reports").glob("log-*/quality.html"))
    assert "user_id missing" in page
    held = typed(house, "make quarantine").stdout
    assert "1  user_id missing" in held
    assert ",i3,2024-01-02T09:00:00Z,1" in held
    export = tmp_path / "held.csv"
    typed(house, "make quarantine", f"ARGS=--export {export}")
    export.write_text(export.read_text().replace(",i3,", "u3,i3,"))
    typed(house, "make quarantine", f"ARGS=--repaired {export}")
    assert f"rows_read {len(rows) + 2}," in typed(house, "make run", "ARGS=ingest").stdout


def test_another_recommender_is_judged_beside_ours(house: Path, tmp_path: Path) -> None:
    typed(house, "make run SOURCE=simulator", "ARGS=ingest")
    data = house / "data/simulator"
    rows = pq.read_table(data / "predictions").slice(0, 400)
    names = pq.read_table(data / "impressions/requests.parquet")["impression_id"].to_pylist()
    items = pq.read_table(data / "user_histories/vocabulary.parquet")
    name_of = dict(zip(items["item_index"].to_pylist(), items["item_id"].to_pylist(), strict=True))
    lines = [
        f"{names[request]},{name_of[item]},{number % 7}"
        for number, (request, item) in enumerate(
            zip(rows["request_index"].to_pylist(), rows["item_index"].to_pylist(), strict=True)
        )
        if item in name_of
    ]
    scores = tmp_path / "theirs.csv"
    scores.write_text("\n".join(["impression_id,item_id,score", *lines, ""]))
    told = typed(house, "make audit", f"SCORES={scores}").stdout
    assert "theirs" in told
    assert "theirs" in (house / "reports/simulator/shift_foreign.html").read_text()
    assert (house / "reports/simulator/foreign.json").exists()


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
    told = typed(house, "make run SOURCE=simulator", "ARGS=ingest").stdout
    assert "0 of 11 stages ran" in told


@pytest.mark.slow
def test_the_service_is_measured(house: Path) -> None:
    told = json.loads(typed(house, "python -m benchmarks.serving", "--requests", "3", "--candidates", "5").stdout)
    assert told["setting"]["requests"] == 3
    assert told["http"]["p50_ms"] > 0


def test_a_person_is_forgotten(house: Path) -> None:
    told = typed(house, "make forget USER=u00007").stdout
    assert "1 of 1 added to live/simulator/" in told
    assert "dvc gc --workspace" in told
