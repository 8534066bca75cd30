"""The champion changes only for a model that does better on the newest requests, or by force, and never by half."""

import dataclasses
import json
import os
import re
import shutil
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from contracts.errors import InputError
from contracts.params import load_params
from features.encoding.counters import Counters
from serving import package
from serving.answering.predictor import open_here
from serving.bundle.loaded import GOLDEN, METRICS, MODEL, SPEC, open_bundle
from serving.bundle.logged import RequestLog
from serving.bundle.manifest import MANIFEST, read_manifest
from serving.bundle.stored import other_coclicks
from serving.promote import decide, main, promote
from serving.promoting.compare import weigh
from serving.promoting.places import exchange, former_of, restore, withdrawn_of
from serving.promoting.rescore import load_newest, open_fitted, score
from serving.rollback import main as rolled_back
from serving.rollback import rollback
from tests.clones import ROOT, hashes, run
from tests.serving.bundles import judged, noisy, of_spec, rehash, reversed_head, rewritten, without_items
from tests.training.test_slices_and_measure import requests as of_two_candidates
from training.judging.measure import Scored
from training.judging.slices import slice_masks
from training.metrics import iauc

pytestmark = pytest.mark.xdist_group("serving")


@pytest.fixture(scope="module")
def params(made: Path) -> dict[str, Any]:
    """Of the small pipeline, with a rule that its few requests can meet."""
    found = load_params(made / "params.yaml")
    rules = found["promote"].model_copy(update={"min_requests": 50, "num_bootstrap": 200})
    return found | {"promote": rules}


@pytest.fixture(scope="module")
def good(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pipeline's bundle, as one that passed."""
    target = tmp_path_factory.mktemp("good") / "bundle"
    shutil.copytree(data / "bundle", target, copy_function=shutil.copyfile)
    return judged(target)


@pytest.fixture(scope="module")
def worse(good: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return rewritten(good, tmp_path_factory.mktemp("worse") / "bundle", reversed_head)


@pytest.fixture
def compared(data: Path, params: dict[str, Any]) -> Callable[..., dict[str, Any]]:
    """decide, on the small log."""

    def compare(candidate: Path, champion: Path | None, **changes: Any) -> dict[str, Any]:
        force = changes.pop("force", False)
        rules = params["promote"].model_copy(update=changes)
        return decide(candidate, champion, data, params["labels"], rules, force)

    return compare


def test_a_worse_one_is_refused_and_a_better_one_promoted_on_the_same_new_requests(
    good: Path, worse: Path, compared: Callable[..., dict[str, Any]]
) -> None:
    up, down = compared(good, worse), compared(worse, good)
    assert (up["promoted"], down["promoted"]) == (True, False)
    assert "the newest is better than the champion: iauc" in up["reason"]
    assert "the newest is worse than the champion: iauc" in down["reason"]
    assert up["gain"] == pytest.approx(-down["gain"])
    assert up["gain_low"] > 0 > down["gain_high"]
    assert up["candidate"]["iauc"] == pytest.approx(1 - up["champion"]["iauc"], abs=1e-4)  # reversed
    assert up["requests"]["num_requests_ranked"] >= 50
    assert up["verdict"][0].startswith(f"Both were scored on the {up['requests']['num_requests']:,} newest requests")
    ranked, users = (up["requests"][f"num_{name}_ranked"] for name in ("requests", "users"))
    assert up["verdict"][0].endswith(f"; {ranked:,} of them can be ranked, of {users:,} users.")
    assert "in none of 10 slices" in up["verdict"][-1]
    assert any("It falls behind in later_after_shift by" in words for words in down["verdict"])
    json.dumps(up, allow_nan=False)


def test_one_that_is_hardly_another_is_not_shown_to_be_better(
    good: Path, tmp_path: Path, compared: Callable[..., dict[str, Any]]
) -> None:
    report = compared(rewritten(good, tmp_path / "like", noisy(1e-3)), good)
    assert not report["promoted"]
    assert "not shown to be better than the champion" in report["reason"]
    assert report["gain_low"] <= 0 <= report["gain_high"]


def test_a_better_one_that_falls_behind_in_a_slice_is_refused_by_its_name(params: dict[str, Any]) -> None:
    """It puts the click first in nine of ten requests and last in the tenth, where the champion flips coins."""
    number = 600
    found = of_two_candidates(np.arange(number) % 31, np.arange(number))
    tenth = found.request_of_row % 10 == 0
    clicked, coins = found.label.astype(float), np.random.default_rng(1).random(2 * number)
    scores = {"candidate": np.where(tenth, -clicked, clicked), "champion": coins}
    scored = {side: Scored(score, np.full(2 * number, 0.5)) for side, score in scores.items()}
    masks = {"history_0": tenth, "cold_users": ~tenth, "hour_00_05": tenth}  # the last has no tolerance
    rules = params["promote"]
    refused = weigh(scored, found, masks, rules, ("MoS", "DIN"))
    assert refused.found["difference"]["iauc_low"] > 0
    assert not refused.promoted
    assert "better than the champion" in refused.reason
    assert "falls behind in 1 of 2 slices: in history_0 by 0." in refused.reason
    assert "promote.tolerance.history_0 is 0.02" in refused.reason
    tolerant = rules.model_copy(update={"tolerance": rules.tolerance.model_copy(update={"history_0": 1.0})})
    assert weigh(scored, found, masks, tolerant, ("MoS", "DIN")).promoted
    few = rules.model_copy(update={"min_requests": 61})  # of the slice's 60
    assert weigh(scored, found, masks, few, ("MoS", "DIN")).promoted


def test_the_slices_of_the_tolerances_are_slices_that_evaluate_names(params: dict[str, Any]) -> None:
    masks = slice_masks(of_two_candidates([0], [0]), np.zeros(1, np.int64), np.zeros(9, np.int64), np.zeros(1, bool))
    assert set(params["promote"].tolerance.model_dump()) <= set(masks)


def test_a_bundle_reads_the_log_by_its_own_vocabulary_as_a_service_of_it_would(
    data: Path, good: Path, tmp_path: Path, params: dict[str, Any]
) -> None:
    """Two ways: in batches by numbers, and request by request by ids, through the service's own scorer."""
    older = open_fitted(without_items(good, tmp_path / "older", lambda item: int(item[1:]) % 3 == 0), "older")
    newest = load_newest(data, [older], params["labels"], 40)
    scored = score(older, newest, "older")
    log = RequestLog.open(data)
    counters = Counters.from_folder(data, log.item_ids, log.histories.user_ids)
    order = np.argsort(newest.requests.request_index)
    starts = newest.requests.row_starts
    for place, request in zip(order, log.read(newest.requests.request_index[order]), strict=True):
        wanted = package._golden(request, log, older.scorer, counters).logits
        np.testing.assert_allclose(scored.score[starts[place] : starts[place + 1]], wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ({"labels": "all"}, r"history\.labels clicked \(trained: all\); restore it in params\.yaml"),
        ({"session_gap_s": 60.0}, r"history\.session_gap_s 1800"),
    ],
)
def test_a_champion_whose_features_the_log_does_not_hold_is_said_so_in_one_sentence(
    good: Path, tmp_path: Path, compared: Callable[..., dict[str, Any]], spec: dict[str, Any], said: str
) -> None:
    champion = of_spec(good, tmp_path / "old", **spec)
    report = compared(good, champion)
    assert not report["promoted"]
    assert report["reason"].startswith("the champion reads other histories than the log has now, ")
    assert re.search(said, report["reason"])
    assert "`make promote ARGS=--force`" in report["reason"]
    assert compared(good, champion, force=True)["promoted"]


def test_a_log_that_counts_more_coarsely_or_others_alike_cannot_be_read(
    data: Path, good: Path, worse: Path, tmp_path: Path, params: dict[str, Any]
) -> None:
    log = tmp_path / "simulator"
    log.mkdir()
    for name in ("user_histories", "impressions", "truth", "coclicks", "item_counters", "user_counters",
                 "user_item_counters"):  # fmt: skip
        (log / name).symlink_to(data / name)
    shutil.copytree(data / "feature_snapshot", log / "feature_snapshot")
    path = log / "feature_snapshot" / "snapshot.json"
    snapshot = json.loads(path.read_text())
    snapshot["settings"]["statistics"]["bucket_s"] = 7200
    path.write_text(json.dumps(snapshot))
    report = decide(good, worse, log, params["labels"], params["promote"])
    assert "reads counts of the trailing 3600 s, but the log's buckets are 7200 s" in report["reason"]
    spec = open_bundle(good).scorer.spec
    settings = {"statistics": {"coclick_rank": 0, "coclick_period_s": 86400}}
    assert other_coclicks(spec, settings) is None
    assert other_coclicks(dataclasses.replace(spec, coclick_rank=7), settings) == settings["statistics"]


def test_a_champion_of_other_item_ids_or_of_older_code_is_said_so(
    good: Path, tmp_path: Path, compared: Callable[..., dict[str, Any]]
) -> None:
    strangers = without_items(good, tmp_path / "strangers", lambda _: True)
    assert re.search(r"knows none of the \d+ items of the log", compared(good, strangers)["reason"])
    older = rehash(Path(shutil.copytree(good, tmp_path / "older", copy_function=shutil.copyfile)))
    spec = json.loads((older / SPEC).read_text()) | {"version": 1}
    (older / SPEC).write_text(json.dumps(spec))
    report = compared(good, rehash(older))
    assert not report["promoted"]
    assert report["reason"].startswith("the champion cannot be scored by this code: ")
    assert "--force" in report["reason"]


def test_without_requests_that_are_new_to_both_nothing_is_promoted(
    good: Path, worse: Path, tmp_path: Path, compared: Callable[..., dict[str, Any]]
) -> None:
    report = compared(good, worse, min_requests=10**6)
    assert "promote.min_requests is 1,000,000" in report["reason"]
    late = Path(shutil.copytree(worse, tmp_path / "late", copy_function=shutil.copyfile))
    report = compared(good, judged(late, chosen_before_us=4_000_000_000_000_000))
    assert not report["promoted"]
    assert "no request of" in report["reason"]
    assert "is later than 2096" in report["reason"]


def test_what_is_not_compared_says_why(
    good: Path, worse: Path, tmp_path: Path, compared: Callable[..., dict[str, Any]]
) -> None:
    assert "the champion already" in compared(good, good)["reason"]
    unjudged = judged(Path(shutil.copytree(good, tmp_path / "new", copy_function=shutil.copyfile)), "not judged")
    assert "was not judged: 27 of 5,153 requests" in compared(unjudged, worse)["reason"]
    other = rehash(Path(shutil.copytree(worse, tmp_path / "other", copy_function=shutil.copyfile)), log="ba9876543210")
    assert "of another log (identity ba9876543210" in compared(good, other)["reason"]
    forced = compared(good, other, force=True)
    assert (forced["promoted"], forced["forced"]) == (True, True)
    assert forced["reason"].startswith("by force, although the champion is of another log")
    assert not compared(good, good, force=True)["promoted"]
    assert compared(unjudged, None)["reason"].startswith("there was no champion; the newest was not judged")


@pytest.fixture
def repository(good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: Path) -> Path:
    """A git and DVC repository in which `good` is the newest bundle."""
    root = tmp_path / "repository"
    root.mkdir()
    for command in (["git", "init", "-q"], ["python", "-m", "dvc", "init", "-q"]):
        run(root, *command)
    newest(root, good)
    for name in ("user_histories", "impressions", "truth", "feature_snapshot", "coclicks", "item_counters",
                 "user_counters", "user_item_counters"):  # fmt: skip
        (root / "data" / "simulator" / name).symlink_to(data / name)
    monkeypatch.chdir(root)
    return root


def newest(root: Path, bundle: Path) -> None:
    target = root / "data" / "simulator" / "bundle"
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(bundle, target, copy_function=shutil.copyfile)


def version(bundle: Path) -> str:
    return read_manifest(bundle).model_version


def test_champions_follow_each_other_and_a_rollback_takes_the_last_one_back(
    repository: Path, good: Path, worse: Path, tmp_path: Path, params: dict[str, Any]
) -> None:
    """First, a better one, two by force; back, and what was withdrawn is not promoted by itself again."""
    labels, rules = params["labels"], params["promote"].model_copy(update={"num_former": 2})
    home, champion = repository / "champions" / "simulator", repository / "champions" / "simulator" / "bundle"
    third, fourth = (rewritten(good, tmp_path / name, noisy(scale)) for name, scale in (("c", 0.5), ("d", 1.0)))
    newest(repository, worse)
    assert promote("simulator", labels, rules)["promoted"]
    newest(repository, good)
    assert promote("simulator", labels, rules)["reason"].startswith("the newest is better than the champion")
    for bundle in (third, fourth):
        newest(repository, bundle)
        assert promote("simulator", labels, rules, force=True)["forced"]
    assert [path.name for path in former_of(home)] == [f"0003-{version(third)}", f"0002-{version(good)}"]

    back = rollback("simulator")
    assert back == {"champion": version(third), "withdrawn": version(fourth), "passed_over": {}, "num_former": 1}
    assert version(champion) == version(third)
    again = promote("simulator", labels, rules)
    assert not again["promoted"]
    assert "`make rollback` withdrew it" in again["reason"]
    rollback("simulator")
    assert version(champion) == version(good)
    with pytest.raises(InputError, match=r"keeps no former champion.*dvc checkout champions/simulator\.dvc"):
        rollback("simulator")
    assert version(champion) == version(good)
    assert withdrawn_of(home) == sorted([version(third), version(fourth)])
    assert promote("simulator", labels, rules, force=True)["forced"]
    assert withdrawn_of(home) == [version(third)]
    run(repository, "python", "-m", "dvc", "status", "--quiet", "champions/simulator.dvc")  # 0: as DVC noted it


def test_a_champion_that_an_older_version_packaged_is_named_and_gives_way_by_force(
    repository: Path, good: Path, worse: Path, params: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    labels, rules = params["labels"], params["promote"]
    home = repository / "champions" / "simulator"
    shutil.copytree(worse, home / "bundle")
    path = home / "bundle" / MANIFEST
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": 1}))
    monkeypatch.setenv("LEITMOTIF_BUNDLE", "champions/simulator/bundle")
    with pytest.raises(InputError, match=r"bundle format 1.*make promote ARGS=--force"):
        open_here()
    refused = promote("simulator", labels, rules)
    assert not refused["promoted"]
    assert re.search(r"bundle format 1; this code reads \d+; `make promote ARGS=--force`", refused["reason"])
    assert promote("simulator", labels, rules, force=True)["forced"]
    assert version(home / "bundle") == version(good)
    assert [path.name for path in former_of(home)] == [f"0001-{version(worse)}"]
    with pytest.raises(InputError, match="bundle format 1"):
        rollback("simulator")
    assert version(home / "bundle") == version(good)


@pytest.mark.parametrize("has_champion", [True, False])
def test_where_dvc_fails_the_champion_is_as_before(
    good: Path, worse: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_champion: bool, params: dict[str, Any]
) -> None:
    newest(tmp_path, good)
    home = tmp_path / "champions" / "simulator"
    if has_champion:
        shutil.copytree(worse, home / "bundle")
        shutil.copytree(good, home / "former" / f"0001-{version(good)}")
    monkeypatch.chdir(tmp_path)  # no DVC repository
    before = sorted(path.relative_to(tmp_path) for path in (tmp_path / "champions").rglob("*"))
    with pytest.raises(InputError, match="dvc add"):
        if has_champion:
            restore(home)
        else:
            promote("simulator", params["labels"], params["promote"])
    assert sorted(path.relative_to(tmp_path) for path in (tmp_path / "champions").rglob("*")) == before
    assert not has_champion or version(home / "bundle") == version(worse)


def test_a_former_champion_that_was_damaged_does_not_come_back(repository: Path, good: Path, worse: Path) -> None:
    home = repository / "champions" / "simulator"
    name = f"0001-{version(worse)}"
    shutil.copytree(good, home / "bundle")
    shutil.copytree(worse, home / "former" / name)
    with (former_of(home)[0] / GOLDEN).open("a") as golden:
        golden.write(" ")
    before = hashes(home)
    with pytest.raises(
        InputError, match=rf"the champion stands: {name}: .*golden\.json changed since the bundle was pack"
    ):
        rollback("simulator")
    assert hashes(home) == before


def test_a_rollback_names_each_damaged_former_champion_and_goes_to_the_latest_whole_one(
    repository: Path,
    good: Path,
    worse: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shutil.copyfile(ROOT / "params.yaml", repository / "params.yaml")
    home = repository / "champions" / "simulator"
    other, third = (rewritten(good, tmp_path / name, noisy(scale)) for name, scale in (("c", 0.5), ("d", 1.0)))
    former = [f"{number:04}-{version(each)}" for number, each in enumerate((good, worse, other, third), start=1)]
    for name, bundle in zip(
        ("bundle", *(f"former/{name}" for name in former)), (third, good, worse, other, third), strict=True
    ):
        shutil.copytree(bundle, home / name, copy_function=shutil.copyfile)
    (home / "former" / former[3] / GOLDEN).unlink()
    (home / "former" / former[3] / GOLDEN).symlink_to("gone")  # as DVC links it where its cache lost the file
    manifest = home / "former" / former[2] / MANIFEST
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"format": 1}))
    monkeypatch.setattr(sys, "argv", ["rollback"])
    rolled_back()
    said = capsys.readouterr().out
    assert re.search(rf"{former[3]} cannot be read and is passed over: .*golden\.json cannot be read", said)
    assert re.search(rf"{former[2]} cannot be read and is passed over: .*bundle format 1", said)
    assert f"Rolled back for simulator: {version(worse)} is champion again, {version(third)} is withdrawn" in said
    assert version(home / "bundle") == version(worse)
    assert [path.name for path in former_of(home)] == [former[2], former[0]]
    report = json.loads((repository / "reports/simulator/rollback.json").read_text())
    assert list(report["passed_over"]) == [former[2], former[3]]


@pytest.mark.parametrize("name", [GOLDEN, MANIFEST])
def test_a_damaged_champion_gives_way_by_force_and_by_a_rollback_and_is_not_kept(
    repository: Path, good: Path, worse: Path, params: dict[str, Any], name: str
) -> None:
    """Also one whose manifest an older version wrote, which this one cannot read."""
    labels, rules = params["labels"], params["promote"]
    home = repository / "champions" / "simulator"
    shutil.copytree(worse, home / "bundle", copy_function=shutil.copyfile)
    shutil.copytree(worse, home / "former" / f"0001-{version(worse)}", copy_function=shutil.copyfile)
    with (home / "bundle" / name).open("a") as file:
        file.write(" }")
    refused = promote("simulator", labels, rules)
    assert not refused["promoted"]
    assert "the champion is damaged and not compared: champions/simulator/bundle" in refused["reason"]
    assert (
        "`dvc checkout --force champions/simulator.dvc` restores it; `make promote ARGS=--force`" in refused["reason"]
    )
    assert rollback("simulator")["champion"] == version(worse)
    with (home / "bundle" / name).open("a") as file:
        file.write(" }")
    assert promote("simulator", labels, rules, force=True)["forced"]
    assert version(home / "bundle") == version(good)
    assert former_of(home) == []


def test_a_reader_finds_one_champion_or_the_other_at_every_moment(tmp_path: Path) -> None:
    import threading

    for name in "ab":
        (tmp_path / name).mkdir()
        (tmp_path / name / "is").write_text(name)
    missed, stop = [], threading.Event()

    def read() -> None:
        while not stop.is_set():
            try:
                (tmp_path / "a" / "is").read_text()
            except FileNotFoundError:
                missed.append(True)

    reader = threading.Thread(target=read)
    reader.start()
    for _ in range(501):
        exchange(tmp_path / "a", tmp_path / "b")
    stop.set()
    reader.join()
    assert missed == []
    assert [(tmp_path / name / "is").read_text() for name in "ab"] == ["b", "a"]


def test_the_first_bundle_becomes_the_champion_under_dvc(
    made: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In this process; `make promote` is typed by tests/doors/test_commands.py."""
    monkeypatch.chdir(made)
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")

    def told(*arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", ["promote", *arguments])
        with suppress(SystemExit):  # of --help
            main()
        return capsys.readouterr().out

    try:
        assert told().startswith("Promoted for simulator: there was no champion; the newest was not judged (")
        assert (made / "champions" / "simulator.dvc").exists()
        report = json.loads((made / "reports" / "simulator" / "promotion.json").read_text())
        assert report["promoted"] is True
        assert told().startswith("Not promoted for simulator: the newest bundle is the champion already")
        assert "--force" in told("--help")
        assert "former champion" in run(made, "python", "-m", "serving.rollback", "--help").stdout
    finally:
        shutil.rmtree(made / "champions" / "simulator", ignore_errors=True)


DAMAGE = {
    "metrics of nothing": (METRICS, b"{}"),
    "metrics of other kinds": (METRICS, b'{"models": 3, "verdict": []}'),
    "golden requests cut short": (GOLDEN, b"["),
    "no model": (MODEL, b""),
}


@pytest.mark.parametrize("what", DAMAGE)
@pytest.mark.parametrize("side", ["candidate", "champion"])
def test_a_damaged_bundle_with_the_right_hashes_is_named(
    good: Path, worse: Path, tmp_path: Path, what: str, side: str, compared: Callable[..., dict[str, Any]]
) -> None:
    bundles = {
        name: Path(shutil.copytree(bundle, tmp_path / name, copy_function=shutil.copyfile))
        for name, bundle in (("candidate", good), ("champion", worse))
    }
    name, content = DAMAGE[what]
    (bundles[side] / name).write_bytes(content)
    rehash(bundles[side])
    try:
        said = compared(bundles["candidate"], bundles["champion"])["reason"]
        assert (side, name) == ("champion", GOLDEN)  # of a champion it is a reason, not an end
    except InputError as error:
        said = str(error)
    assert str(bundles[side] / name) in said


def test_the_figures_are_those_of_the_metrics_over_the_scores(
    data: Path, good: Path, worse: Path, params: dict[str, Any], compared: Callable[..., dict[str, Any]]
) -> None:
    side = open_fitted(good, "good")
    found = load_newest(data, [side], params["labels"], params["promote"].max_requests)
    values = score(side, found, "good").score
    wanted = iauc(values, found.requests.label, found.requests.request_of_row)
    assert compared(good, worse)["candidate"]["iauc"] == pytest.approx(wanted, abs=1e-6)
