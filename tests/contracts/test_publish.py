"""Outs appear whole or not at all."""

from pathlib import Path

import pytest

from contracts.errors import CheckFailed
from contracts.publish import publish, write_json


def test_outs_appear_together_at_the_end(tmp_path: Path) -> None:
    with publish(tmp_path, "a", "b") as staging:
        (staging / "a" / "x").write_text("1")
        assert not (tmp_path / "a").exists()
    assert (tmp_path / "a" / "x").read_text() == "1"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


def test_a_failure_leaves_the_last_good_outs(tmp_path: Path) -> None:
    with publish(tmp_path, "a") as staging:
        (staging / "a" / "x").write_text("good")
    with pytest.raises(RuntimeError), publish(tmp_path, "a") as staging:
        (staging / "a" / "x").write_text("half")
        raise RuntimeError
    assert (tmp_path / "a" / "x").read_text() == "good"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_what_a_check_refused_is_kept_aside(tmp_path: Path) -> None:
    with pytest.raises(CheckFailed), publish(tmp_path, "a") as staging:
        (staging / "a" / "x").write_text("refused")
        raise CheckFailed("too many bad rows")
    assert (tmp_path / ".refused" / "a" / "x").read_text() == "refused"
    assert not (tmp_path / "a").exists()


def test_a_second_run_replaces_the_whole_folder(tmp_path: Path) -> None:
    for name in ("old", "new"):
        with publish(tmp_path, "a") as staging:
            (staging / "a" / name).touch()
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["new"]


def test_json_is_sorted_and_keeps_every_script(tmp_path: Path) -> None:
    write_json(tmp_path / "deep" / "x.json", {"b": float("nan"), "a": "é🎬"})
    assert (tmp_path / "deep" / "x.json").read_text(encoding="utf-8") == '{\n  "a": "é🎬",\n  "b": null\n}\n'
