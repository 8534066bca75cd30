"""The whole pipeline on small logs by the commands of the README: one run, its outputs, and an idle second run."""

import csv
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from ruamel.yaml import YAML

from orchestration.configure import configure
from serving.answering.predictor import Predictor
from serving.answering.requests import EventsRequest, RankRequest, RequestContext
from tests import ebnerd_log
from tests.clones import SMALL, clone, hashes, real_data, run
from tests.one_process import run_stages
from tests.prepared import copied, prepared

pytestmark = pytest.mark.xdist_group("pipeline")

FEATURES = tuple(
    f"features.stages.{name}" for name in ("ingest", "validate", "histories", "statistics", "audit", "materialize")
)
MODEL = ("training.train", "training.evaluate", "serving.package")
STAGES = ["ingest", "validate", "histories", "statistics", "audit", "materialize", "train", "evaluate", "package"]
TABLE_COLUMNS = {
    "user_id": "Wer schaut?",
    "item_id": "tïtle 🎬",
    "occurred_at": "when(ms)",
    "label": "liked",
    "position": "slot #",
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone in which the pipeline has run once on a small simulated log."""
    return copied(prepared(tmp_path_factory), tmp_path_factory.mktemp("made"))


def report(repository: Path, source: str, stage: str) -> dict:
    return json.loads((repository / "reports" / source / f"{stage}.json").read_text())


def params_of(repository: Path) -> dict:
    return YAML(typ="safe").load(repository / "params.yaml")


def assert_adds_up(repository: Path, source: str) -> None:
    ingest, validate = (report(repository, source, stage) for stage in ("ingest", "validate"))
    assert ingest["rows_read"] == ingest["rows_written"] + sum(ingest["dropped"].values())
    assert validate["rows_in"] == ingest["rows_written"]
    assert validate["rows_in"] == validate["rows_valid"] + validate["rows_quarantined"] + validate["rows_duplicated"]
    assert sum(validate["quarantined_by_reason"].values()) == validate["rows_quarantined"]
    ledger = pq.read_table(repository / "data" / source / "ledger")
    assert sum(ledger["rows"].to_pylist()) == ingest["rows_read"]


def test_one_run_makes_every_stage_s_report_with_its_keys(made: Path) -> None:
    assert set(STAGES) <= {path.stem for path in (made / "reports/simulator").glob("*.json")}
    expected = {
        "histories": {"num_users", "num_items", "num_events", "num_impressions", "num_requests", "num_sessions"},
        "validate": {"rows_in", "rows_valid", "rows_quarantined", "rows_duplicated", "num_expectations"},
        "train": {"num_parameters", "epochs", "best_epoch"},
        "evaluate": {"models", "slices", "verdict"},
        "package": {"bundle_hash", "feature_spec_hash", "num_golden_requests"},
    }
    for stage, keys in expected.items():
        assert keys <= report(made, "simulator", stage).keys(), stage
    assert report(made, "simulator", "validate")["num_expectations"] >= 10
    assert set(report(made, "simulator", "histories")["history_length"]) == {"median", "p95", "max"}
    assert {"mos", "din", "popularity"} <= report(made, "simulator", "evaluate")["models"].keys()
    for measured in report(made, "simulator", "evaluate")["models"].values():
        assert {"auc", "iauc", "gauc", "logloss"} <= measured.keys()


def test_every_row_is_accounted_for(made: Path) -> None:
    assert_adds_up(made, "simulator")


def test_online_equals_offline(made: Path) -> None:
    parity = report(made, "simulator", "materialize")["parity"]
    assert parity["checked"] > 0
    assert parity["mismatches"] == 0


def test_a_second_run_does_nothing_says_what_was_made_and_where_to_look_and_dvc_is_clean(made: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in made.glob("reports/simulator/*.json")}
    told = run(made, "python", "-m", "orchestration.reproduce").stdout
    assert {path: path.stat().st_mtime_ns for path in made.glob("reports/simulator/*.json")} == before
    for stage in STAGES:
        assert stage in told
    assert "make serve" in told
    assert "data_docs" in told
    assert "up to date" in run(made, "dvc", "status").stdout


@pytest.mark.slow
def test_dagster_finds_nothing_to_do_after_make_run(made: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in made.glob("reports/simulator/*.json")}
    run(made, "dagster", "job", "execute", "-m", "orchestration.definitions", "-j", "everything")
    assert {path: path.stat().st_mtime_ns for path in made.glob("reports/simulator/*.json")} == before
    assert "up to date" in run(made, "dvc", "status").stdout


def num_values(params: Any) -> int:
    """Columns of `dvc exp show` that are parameters, however deep they stand."""
    return sum(map(num_values, params.values())) if isinstance(params, dict) else 1


def test_dvc_compares_the_figures_that_people_compare_and_draws_no_report(made: Path) -> None:
    compared = json.loads(run(made, "dvc", "metrics", "show", "--json").stdout)[""]["data"]
    assert all(path.startswith("reports/simulator/figures/") for path in compared)
    assert compared["reports/simulator/figures/evaluate.json"]["data"]["mos"].keys() >= {"auc", "iauc", "logloss"}
    columns = next(csv.reader(run(made, "dvc", "exp", "show", "--csv").stdout.splitlines()))
    assert "mos.auc" in columns
    figures = [column for column in columns if "/" not in column]  # the rest are files
    assert len(figures) - num_values(params_of(made)) < 70
    drawn = run(made, "dvc", "plots", "show", "-o", str(made / ".state" / "plots"))
    assert "WARNING" not in drawn.stderr


@pytest.mark.slow
def test_an_experiment_changes_a_parameter_and_the_curves_of_both_are_drawn(made: Path, tmp_path: Path) -> None:
    repository = copied(made, tmp_path / "clone")
    run(repository, "git", "add", "-A")
    run(repository, "git", "-c", "user.name=test", "-c", "user.email=test@localhost", "commit", "-qm", "made")
    before = report(repository, "simulator", "train")["num_parameters"]
    run(repository, "dvc", "exp", "run", "-S", "model.num_themes=8")
    assert params_of(repository)["model"]["num_themes"] == 8
    assert report(repository, "simulator", "train")["num_parameters"] < before
    rows = list(csv.DictReader(run(repository, "dvc", "exp", "show", "--csv").stdout.splitlines()))
    assert {"8", "12"} <= {row["model.num_themes"] for row in rows}
    assert "up to date" in run(repository, "dvc", "status").stdout
    page = repository / ".state" / "plots"
    run(repository, "dvc", "plots", "diff", "HEAD", "workspace", "-o", str(page))
    drawn = (page / "index.html").read_text()
    assert "validation_gauc" in drawn
    assert "train_loss" in drawn
    assert '"rev": "HEAD"' in drawn


def test_posted_events_stay_through_a_run_and_a_restart_and_then_come_from_the_log(made: Path, tmp_path: Path) -> None:
    """Tests of serving and of the doors post over HTTP; here a run lies between what is asked before and after."""
    repository = tmp_path / "clone"
    repository.mkdir()
    copied(made, repository)
    predictor = opened(repository)
    users = [golden.user_id for golden in {each.user_id: each for each in predictor.bundle.golden}.values()][:5]
    items = predictor.bundle.golden[0].candidates
    ask = [{"user_id": user, "candidates": items, "preview": True} for user in users]
    before = ranked(predictor, ask)
    for number in range(50):
        event = {"user_id": users[number % len(users)], "item_id": items[number % len(items)]}
        posted = EventsRequest.model_validate({"events": [event | {"event_id": f"posted {number}"}]})
        assert predictor.append(posted).num_new == 1
    ask = [each | {"at": predictor.info()["at"]} for each in ask]  # time goes on
    live = ranked(predictor, ask)
    predictor.store.tail.close()
    for one, other in zip(before, live, strict=True):
        assert other["history"]["length"] == one["history"]["length"] + 10
        assert other["items"] != one["items"]
    run(repository, "python", "-m", "orchestration.reproduce")
    assert "up to date" in run(repository, "dvc", "status").stdout
    restarted = opened(repository)
    assert ranked(restarted, ask) == live
    histories = [restarted.store.history(user) for user in users]
    restarted.store.tail.close()
    assert "sealed 50 in live/simulator/" in run(repository, "python", "-m", "features.live.absorb").stdout
    run_stages(repository, FEATURES)
    assert_adds_up(repository, "simulator")
    again = opened(repository)
    assert again.store.live.num_events == 0
    for each, held, reply in zip(ask, histories, live, strict=True):
        now = again.store.history(each["user_id"])
        assert held is not None
        assert now is not None
        assert now.item_ids == held.item_ids
        for name in ("occurred_at", "label", "session"):
            assert getattr(now, name).tolist() == getattr(held, name).tolist()
        told = again.rank(RankRequest.model_validate(each))
        assert told.history.model_dump() == reply["history"]


def ranked(predictor: Predictor, asked: list[dict]) -> list[dict]:
    return [predictor.rank(RankRequest.model_validate(each)).model_dump() for each in asked]


def opened(repository: Path) -> Predictor:
    data, state = (repository / folder for folder in ("data/simulator", ".state/simulator/feast"))
    return Predictor.open(data / "bundle", state, data / "feature_snapshot")


def write_table(folder: Path, rows: list[list[str]]) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / "log.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(TABLE_COLUMNS.values())
        writer.writerows(rows)
    return path


def own_log() -> list[list[str]]:
    """A person's own log: emoji in the ids, epoch milliseconds, two bad rows. 60 people, evenings in two moods."""
    draw = random.Random(7)
    rows = []
    for user in range(60):
        at = 1_700_000_000_000 + draw.randrange(10**9)
        for evening in range(12):
            mood = (user + evening // 2) % 2
            for slot in range(6):
                item = draw.randrange(30)
                liked = draw.random() < (0.8 if item % 2 == mood else 0.2)
                rows.append([f"👤{user}", f"🎬 {item}", str(at), str(int(liked)), str(slot)])
                at += draw.randrange(1_000, 60_000)
            at += draw.randrange(10**7, 10**8)
    return [*rows, ["👤1", "🎬 1", "yesterday", "1", "0"], ["", "🎬 1", "1700000000000", "1", "0"]]


def table_arguments(path: Path) -> list[str]:
    columns = [f"source.columns.{ours}={theirs}" for ours, theirs in TABLE_COLUMNS.items()]
    told = ["--source", "table", "--data", str(path)]
    return [*told, "source.id=table", "source.time_unit=ms", "source.partition=month", *columns]


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, list[list[str]]]]:
    """A clone in which a log with odd column names has run, and that log's rows: by DVC as far as a log can be bad."""
    repository = clone(tmp_path_factory.mktemp("own"))
    rows = own_log()
    told = table_arguments(write_table(repository / "logs", rows).relative_to(repository))
    run(repository, "python", "-m", "orchestration.reproduce", *told, *SMALL, "train.min_history=5", "validate")
    run_stages(repository, (*FEATURES[2:], *MODEL))
    return repository, rows


def test_one_s_own_csv_runs_to_a_bundle_and_its_bad_rows_are_accounted_for(own: tuple[Path, list[list[str]]]) -> None:
    repository, rows = own
    assert_adds_up(repository, "table")
    assert report(repository, "table", "ingest")["rows_read"] == len(rows)
    assert sum(report(repository, "table", "ingest")["dropped"].values()) == 1
    assert report(repository, "table", "validate")["rows_quarantined"] == 1
    assert (repository / "data/table/bundle/bundle.json").exists()


def test_shuffled_rows_give_the_same_bytes(own: tuple[Path, list[list[str]]], tmp_path: Path) -> None:
    repository, rows = own
    shuffled = rows.copy()
    random.Random(1).shuffle(shuffled)
    before = hashes(repository / "data/table")
    other = clone(tmp_path)
    (other / "params.yaml").write_text((repository / "params.yaml").read_text())
    write_table(other / "logs", shuffled)
    run_stages(other, FEATURES)  # what train reads: the same weights follow
    after = hashes(other / "data/table")
    of_the_order = ("provenance", "rejected", "quarantine")
    made_later = ("weights", "training_record", "metrics", "predictions", "bundle")
    data = {name for name in before if not name.startswith((*of_the_order, *made_later))}
    assert len({name.partition("/")[0] for name in data}) > 10
    assert {name: after.get(name) for name in data} == {name: before[name] for name in data}


@pytest.mark.parametrize(
    ("change", "code", "message"),
    [
        ("source.columns.item_id=film", 2, "film"),
        ("source.path=nowhere.csv", 2, "nowhere.csv"),
        ("model.num_theme=3", 2, "num_themes"),
        ("source.name=netflix", 2, "netflix"),
        ("validate.max_quarantined_share=0", 3, "max_quarantined_share"),
    ],
)
def test_bad_input_is_one_message_and_the_last_good_output_stands(
    own: tuple[Path, list[list[str]]], change: str, code: int, message: str
) -> None:
    repository, _ = own
    params = (repository / "params.yaml").read_text()
    before = hashes(repository / "data/table")
    try:
        failed = run(repository, "python", "-m", "orchestration.reproduce", change, check=False)
        assert failed.returncode == code, failed.stderr
        assert message in failed.stderr
        assert "Traceback" not in failed.stderr
        assert hashes(repository / "data/table") == before
    finally:
        (repository / "params.yaml").write_text(params)


@pytest.mark.slow
def test_a_real_log_runs_from_its_published_files(tmp_path: Path) -> None:
    log = real_data("movielens-small")
    repository = clone(tmp_path)
    little = ("train.max_requests=1000", "train.epochs=1", "train.router_steps=20", "train.router_starts=2")
    little += ("train.num_threads=1", "evaluate.num_bootstrap=20", "evaluate.min_requests=100000")
    little += ("materialize.num_parity_requests=50",)
    reproduce = ("python", "-m", "orchestration.reproduce")
    run(repository, *reproduce, "--source", "movielens", "--data", str(log), *little)
    assert_adds_up(repository, "movielens")
    assert report(repository, "movielens", "ingest")["rows_read"] == 100_004
    assert report(repository, "movielens", "histories")["num_users"] == 671
    assert report(repository, "movielens", "evaluate")["models"]["popularity"]["auc"] > 0.6


EBNERD = {
    "split.test": "2023-05-31T07:00:00Z",
    "train.max_requests": 640,
    "train.epochs": 1,
    "train.router_steps": 40,
    "train.router_starts": 2,
    "train.num_threads": 1,
    "evaluate.num_bootstrap": 20,
    "evaluate.min_requests": 100000,
    "materialize.num_parity_requests": 200,
}


def test_a_real_impression_log_of_some_users_runs_to_an_answer(tmp_path: Path) -> None:
    """The short form of the next one: a sixteenth of the users, stages in one process."""
    log = real_data("ebnerd-demo")
    (tmp_path / "clone").mkdir()
    repository = clone(tmp_path / "clone")
    ebnerd_log.of_some_users(log, tmp_path / "log", 16)
    configure({"source.name": "ebnerd", "source.path": str(tmp_path / "log")} | EBNERD, repository / "params.yaml")
    run_stages(repository, (*FEATURES, *MODEL))
    assert report(repository, "ebnerd", "ingest")["rows_read"] > 50_000
    assert_it_answers(repository, popularity=0.55)  # fewer users, fewer clicks to count


@pytest.mark.slow
def test_a_real_impression_log_runs_from_its_published_files_to_an_answer(tmp_path: Path) -> None:
    log = real_data("ebnerd-demo")
    repository = clone(tmp_path)
    reproduce = ("python", "-m", "orchestration.reproduce")
    little = (f"{key}={value}" for key, value in EBNERD.items())
    run(repository, *reproduce, "--source", "ebnerd", "--data", str(log), *little)
    assert report(repository, "ebnerd", "ingest")["rows_read"] == 1_081_430
    assert report(repository, "ebnerd", "validate")["rows_valid"] == 907_179
    assert report(repository, "ebnerd", "histories")["num_requests"] == 50_080
    assert report(repository, "ebnerd", "histories")["num_impressions"] == 583_054
    assert pq.read_table(repository / "data/ebnerd/contexts").num_rows == 50_080
    assert_it_answers(repository, popularity=0.7)


def assert_it_answers(repository: Path, popularity: float) -> None:
    """EB-NeRD has run: rows add up, online equals offline, popularity is strong, and the bundle ranks by context."""
    assert_adds_up(repository, "ebnerd")
    parity = report(repository, "ebnerd", "materialize")["parity"]
    assert parity["checked"] > 100
    assert parity["mismatches"] == 0
    assert report(repository, "ebnerd", "evaluate")["models"]["popularity"]["iauc"] > popularity
    data, state = (repository / folder for folder in ("data/ebnerd", ".state/ebnerd/feast"))
    predictor = Predictor.open(data / "bundle", state, data / "feature_snapshot")
    golden = predictor.bundle.golden[-1]
    request = {"user_id": golden.user_id, "candidates": golden.candidates}
    reply, read = (
        predictor.rank(RankRequest(**request, context=RequestContext(reading_item_id=item)))
        for item in (None, golden.candidates[0])
    )
    assert not reply.cold_start_user
    assert reply.history.length > 0
    assert {item.item_id for item in reply.items} == set(golden.candidates)
    assert [item.score for item in reply.items] != [item.score for item in read.items]
