"""The champion changes only for a better model or by force, and never by half."""

import json
import os
import shutil
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from contracts.errors import InputError
from serving.bundle.loaded import METRICS, RANKED
from serving.bundle.manifest import MANIFEST, read_manifest, write_manifest
from serving.promote import decide, main, promote

pytestmark = pytest.mark.xdist_group("serving")


def changed(
    bundle: Path,
    target: Path,
    iauc: float | None,
    test_data_hash: str = "same",
    noise: float = 0.0,
    state: str = "passed",
    log: str | None = "0123456789ab",
) -> Path:
    """A copy of a bundle that was measured otherwise. noise: of the AUC of each of 60 requests of 30 users."""
    shutil.copytree(bundle, target, copy_function=shutil.copyfile)
    metrics = json.loads((target / METRICS).read_text()) | {"test_data_hash": test_data_hash}
    metrics["models"]["mos"]["iauc"] = iauc
    metrics["verdict"] = {"state": state, "passed": state == "passed", "reasons": ["27 of 5,153 requests"]}
    (target / METRICS).write_text(json.dumps(metrics))
    drawn = noise * np.random.default_rng(1).normal(size=60)
    within = (iauc or 0) + drawn - drawn.mean()
    pq.write_table(pa.table({"user_index": np.arange(60) // 2, "auc": within}), target / RANKED)
    return rehash(target, log=log)


def rehash(target: Path, **changes: Any) -> Path:
    """The bundle with a manifest of what it holds now."""
    described = json.loads((target / MANIFEST).read_text()) | changes
    (target / MANIFEST).unlink()
    write_manifest(target, **{key: described[key] for key in described.keys() - {"format", "files", "bundle_hash"}})
    return target


@pytest.mark.parametrize(
    ("candidate", "champion", "promoted", "reason"),
    [
        ((0.7, "same"), (0.6, "same"), True, "0.7000 against 0.6000"),
        ((0.6, "same"), (0.7, "same"), False, "0.6000 against 0.7000"),
        ((0.6, "same"), (0.6, "same"), False, "champion already"),
        ((0.61, "same", 0.3), (0.6, "same"), False, "not shown to be better than the champion: iauc 0.6100"),
        ((0.61, "same", 0.01), (0.6, "same"), True, "better than the champion: iauc 0.6100 against 0.6000, +0.0100"),
        ((0.7, "same", 0.0, "not judged"), (0.6, "same"), False, "was not judged: 27 of 5,153 requests"),
        ((0.9, "newer"), (0.7, "same"), False, "--force"),
        ((None, "same"), (0.7, "same"), False, "not measured"),
        ((0.7, "same"), (0.6, "same", 0.0, "passed", "ba9876543210"), False, "of another log (identity ba9876543210"),
        ((0.7, "same"), (0.6, "same", 0.0, "passed", None), True, "0.7000 against 0.6000"),
    ],
)
def test_the_better_one_is_promoted(
    bundle: Path, tmp_path: Path, candidate: tuple, champion: tuple, promoted: bool, reason: str
) -> None:
    report = decide(changed(bundle, tmp_path / "new", *candidate), changed(bundle, tmp_path / "old", *champion))
    assert report["promoted"] is promoted
    assert reason in report["reason"]


@pytest.mark.parametrize(
    ("candidate", "champion", "promoted", "forced"),
    [
        ((0.6, "newer"), (0.7, "same"), True, True),
        ((0.6, "same"), (0.7, "same"), True, True),
        ((0.7, "same"), (0.6, "same"), True, False),
        ((0.6, "same"), (0.6, "same"), False, False),
        ((0.7, "same"), (0.6, "same", 0.0, "passed", "ba9876543210"), True, True),
    ],
)
def test_force_promotes_what_would_be_refused_and_says_so(
    bundle: Path, tmp_path: Path, candidate: tuple, champion: tuple, promoted: bool, forced: bool
) -> None:
    report = decide(
        changed(bundle, tmp_path / "new", *candidate), changed(bundle, tmp_path / "old", *champion), force=True
    )
    assert (report["promoted"], report["forced"]) == (promoted, forced)
    assert report["reason"].startswith("by force") is forced


def test_a_champion_of_an_older_version_and_one_of_other_requests_are_not_compared(
    bundle: Path, tmp_path: Path
) -> None:
    new, old = changed(bundle, tmp_path / "new", 0.7), changed(bundle, tmp_path / "old", 0.6)
    pq.write_table(pq.read_table(old / RANKED).slice(1), old / RANKED)
    rehash(old)
    with pytest.raises(InputError, match="hold other requests"):
        decide(new, old)
    (old / RANKED).unlink()
    rehash(old)
    report = decide(new, old)
    assert not report["promoted"]
    assert "older version" in report["reason"]


@pytest.mark.parametrize("has_champion", [True, False])
def test_where_dvc_fails_the_champion_is_as_before(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_champion: bool
) -> None:
    changed(bundle, tmp_path / "data" / "simulator" / "bundle", 0.7)
    champion = tmp_path / "champions" / "simulator" / "bundle"
    before = read_manifest(changed(bundle, champion, 0.6)) if has_champion else None
    monkeypatch.chdir(tmp_path)  # no DVC repository
    with pytest.raises(InputError, match="dvc add"):
        promote("simulator")
    assert (read_manifest(champion) if champion.exists() else None) == before
    assert [path.name for path in champion.parent.iterdir()] == ["bundle"] * has_champion


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
    finally:
        shutil.rmtree(made / "champions" / "simulator", ignore_errors=True)


DAMAGE = {
    "metrics of nothing": (METRICS, b"{}"),
    "metrics of other kinds": (METRICS, b'{"models": 3, "verdict": []}'),
    "requests cut short": (RANKED, b"PAR1"),
    "no requests": (RANKED, b""),
}


@pytest.mark.parametrize("what", DAMAGE)
@pytest.mark.parametrize("side", ["candidate", "champion"])
def test_a_damaged_bundle_with_the_right_hashes_is_named(data: Path, tmp_path: Path, what: str, side: str) -> None:
    bundles = {"candidate": changed(data / "bundle", tmp_path / "a", 0.7)}
    bundles["champion"] = changed(data / "bundle", tmp_path / "b", 0.6)
    name, content = DAMAGE[what]
    (bundles[side] / name).write_bytes(content)
    rehash(bundles[side])
    with pytest.raises(InputError) as error:
        decide(bundles["candidate"], bundles["champion"])
    assert str(bundles[side] / name) in str(error.value)
