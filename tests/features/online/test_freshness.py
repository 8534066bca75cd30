"""How fresh and how complete what is online is: measured on real stores, made stale and incomplete for real."""

import json
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from contracts.errors import CheckFailed, InputError
from features.live.places import state_of
from features.online.freshness import main, measure, watch
from features.online.load import load
from features.online.store import OnlineStore
from features.stages.materialize import run
from orchestration.checks import CHECKS, Verdict, judge
from orchestration.configure import configure
from orchestration.figures import figures
from serving.bundle.manifest import hash_file
from tests.features.online.test_online import loaded
from tests.features.small_log import build, history, labels, materialize, random_log, row, statistics, validate

pytestmark = pytest.mark.xdist_group("feast")
ROOT = Path(__file__).resolve().parents[3]
LENIENT = materialize(min_user_share=0.8)
VIEWS = {"user_history", "user_state", "item_profile", "item_counters"}
DAY_S = 86_400


def verdict(name: str, report: dict) -> Verdict:
    return judge(next(check for check in CHECKS if (check.out, check.name) == ("feature_snapshot", name)), report)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five users with events, and one who was only shown something."""
    folder = tmp_path_factory.mktemp("root") / "data" / "table"
    build(folder, [*random_log(1), row("shown", "i00", 4000, label=0), row("u1", "i03", 3999.5)])
    return folder


@pytest.fixture(scope="module")
def report(data: Path) -> dict:
    made = run(data, history(), statistics(), materialize(), validate(), labels())
    return json.loads(json.dumps(made))  # as the stage leaves it


def test_every_view_says_its_newest_event_its_lag_its_keys_and_its_limits(report: dict) -> None:
    views = report["views"]
    assert set(views) == VIEWS
    of_users = views["user_history"]
    assert of_users["newest"] == "2024-01-01T01:06:39.500000+00:00"
    assert (of_users["lag_s"], of_users["num_keys"], of_users["share"]) == (0.5, 5, 1.0)
    assert (of_users["max_lag_s"], of_users["min_share"]) == (DAY_S, 1.0)
    assert views["user_state"]["num_keys"] == 6
    assert views["user_state"]["lag_s"] == 0
    assert {each["share"] for each in views.values()} == {1.0}


def test_what_is_fresh_and_complete_passes_and_dagster_shows_a_table(report: dict) -> None:
    assert verdict("event_time_lag", report).passed
    assert verdict("complete", report).passed
    shown = figures({"views": report["views"]})
    assert "| user_history | 2024-01-01T01:06:39.500000+00:00 | 0.5 |" in str(shown["views"].value)


def test_clicks_that_stopped_a_day_ago_fail_the_check_that_names_view_figure_and_limit(tmp_path: Path) -> None:
    folder = tmp_path / "data" / "table"
    build(folder, [*random_log(2), row("u0", "i00", 2 * DAY_S, label=0, impression_id="last", position=0)])
    made = json.loads(json.dumps(run(folder, history(), statistics(), materialize(), validate(), labels())))
    judged = verdict("event_time_lag", made)
    assert not judged.passed
    assert judged.description.startswith("user_history: its newest event, 2024-01-01T01:0")
    assert "s behind the log's end; materialize.max_lag_s is 86,400" in judged.description
    assert "item_counters" not in judged.description
    assert verdict("complete", made).passed


def test_users_that_the_snapshot_lacks_are_missed_by_the_log_s_own_account(tmp_path: Path) -> None:
    folder = tmp_path / "data" / "table"
    loaded(folder, random_log(3))
    snapshot = folder / "feature_snapshot"
    users = pq.read_table(snapshot / "user_history.parquet")
    pq.write_table(users.filter(pc.field("user_id") != "u2"), snapshot / "user_history.parquet")
    stamp = json.loads((snapshot / "snapshot.json").read_text())
    stamp["files"]["user_history.parquet"] = hash_file(snapshot / "user_history.parquet")
    (snapshot / "snapshot.json").write_text(json.dumps(stamp | {"snapshot_id": "without u2", "num_users": 4}))
    load(folder, state_of(folder))
    views = measure(OnlineStore.open(state_of(folder)), folder, materialize(min_user_share=0.9))
    judged = verdict("complete", {"views": views})
    assert (views["user_history"]["num_keys"], views["user_history"]["share"]) == (4, 0.8)
    assert not judged.passed
    assert judged.description == (
        "user_history: 80.0000% of what the log has is there, 4 keys; the limit is 90.0000% "
        "(materialize.min_user_share)"
    )
    assert verdict("complete", {"views": measure(OnlineStore.open(state_of(folder)), folder, LENIENT)}).passed


def test_rows_that_vanish_from_the_loaded_store_are_seen_at_once(tmp_path: Path) -> None:
    folder = tmp_path / "data" / "table"
    loaded(folder, random_log(4))
    assert "user_history" in watch(folder, materialize())
    with closing(sqlite3.connect(state_of(folder) / "online.db")) as database, database:
        ends = "CAST(substr(entity_key, -3) AS TEXT) = 'i03'"
        assert database.execute(f"DELETE FROM leitmotif_item_profile WHERE {ends}").rowcount > 0
    with pytest.raises(CheckFailed, match=r"item_profile: 91\.6667% .*\n`make run`"):
        watch(folder, materialize())


def test_a_log_that_went_on_without_the_store_makes_it_stale(tmp_path: Path) -> None:
    folder = tmp_path / "data" / "table"
    rows = random_log(5)
    loaded(folder, rows)
    build(folder, [*rows, row("new", "i00", 3 * DAY_S)])
    with pytest.raises(CheckFailed) as failed:
        watch(folder, materialize())
    lines = str(failed.value).splitlines()
    assert sum("materialize.max_lag_s is 86,400" in line for line in lines) == 4
    assert any(line.startswith("user_history: 83.3333%") for line in lines)


def test_the_command_prints_the_table_and_its_exit_status_says_what_is_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "data" / "table"
    (tmp_path / "params.yaml").write_bytes((ROOT / "params.yaml").read_bytes())
    (tmp_path / "presets").symlink_to(ROOT / "presets")
    named = {"source.name": "table", "source.id": "table", "source.path": "log.csv"}
    configure(named | {"materialize.max_lag_s": 60}, tmp_path / "params.yaml")

    def command() -> "subprocess.CompletedProcess[str]":
        path = {"PYTHONPATH": str(ROOT)}
        done = [sys.executable, "-m", "features.online.freshness"]
        return subprocess.run(done, cwd=tmp_path, env=path, capture_output=True, text=True, check=False)

    rows = random_log(6)
    loaded(folder, [*rows, row("u0", "i00", 4000)])
    monkeypatch.chdir(tmp_path)
    main()  # the command in this process
    told = capsys.readouterr()
    assert told.err == ""
    assert [line.split()[0] for line in told.out.splitlines()] == [
        "view",
        "user_history",
        "user_state",
        "item_profile",
        "item_counters",
        "no",
    ]
    assert told.out.endswith("no live events since\n")
    build(folder, [*rows, row("u0", "i00", 4000), row("u1", "i00", 4100)])
    done = command()
    assert done.returncode == 3
    assert done.stderr.startswith("view ")  # nothing that a library says stands before it
    assert "user_history: its newest event, 2024-01-01T01:06:40+00:00, is 100 s behind the log's end" in done.stderr


def test_a_store_that_was_never_loaded_names_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(InputError, match="make load"):
        watch(tmp_path / "data" / "table", materialize())
    (tmp_path / "params.yaml").write_bytes((ROOT / "params.yaml").read_bytes())
    (tmp_path / "presets").symlink_to(ROOT / "presets")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        main()
    assert (ended.value.code, "make load" in capsys.readouterr().err) == (2, True)
